"""Point-cloud completion with PoinTr: data, model, metrics."""
