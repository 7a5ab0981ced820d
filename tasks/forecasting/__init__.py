"""Long-sequence forecasting with Informer: data, model, metrics."""
