// Figures: values under the pointer, and series that a legend entry hides.  Without this script figures are as they stand.
"use strict";
{
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);

  const value = (one) => (Array.isArray(one) ? one[0] : one);
  const words = (one) => (Array.isArray(one) ? one[1] : String(one).replace("-", "\u2212"));
  // The scales of matplotlib that the report uses.
  const scales = {
    linear: () => (x) => x,
    log: () => (x) => Math.log(x),
    symlog: ({ linthresh, linscale, base }) => {
      const linear = linscale / (1 - 1 / base);
      return (x) => (Math.abs(x) <= linthresh ? x * linear
        : Math.sign(x) * linthresh * (linear + Math.log(Math.abs(x) / linthresh) / Math.log(base)));
    },
  };
  // Place in the SVG of a value on an axis that goes from one edge to the other.
  const placing = (axis, from, to) => {
    const scaled = (scales[axis.scale] ?? scales.linear)(axis);
    const [low, high] = axis.limits.map(scaled);
    return (x) => from + ((scaled(x) - low) / (high - low)) * (to - from);
  };

  for (const figure of document.querySelectorAll("figure")) {
    const source = figure.querySelector("script");
    if (!source) continue;
    const { series, axes } = JSON.parse(source.textContent);
    const svg = figure.querySelector("svg");
    const hidden = new Set();
    const panels = axes.map(({ box: [left, top, right, bottom], x, y, lines }) => {
      const [across, down] = [placing(x, left, right), placing(y, bottom, top)];
      let places = [];
      const points = lines.flatMap((line) => {
        places = line.x ?? places;
        return line.y.map((one, index) => ({
          series: line.series, note: line.note, x: places[index], y: one, at: [across(value(places[index])), down(value(one))],
        }));
      });
      return { left, top, right, bottom, x, y, points };
    });

    const inside = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const show = (event) => {
      const place = inside(event);
      const panel = panels.find((one) => place.x >= one.left - 4 && place.x <= one.right + 4 && place.y >= one.top - 4 && place.y <= one.bottom + 4);
      const seen = (panel?.points ?? []).filter((point) => !hidden.has(point.series));
      if (!seen.length) { tip.hidden = true; return; }
      const distance = (point) => Math.hypot(point.at[0] - place.x, point.at[1] - place.y);
      const nearest = seen.reduce((best, point) => (distance(point) < distance(best) ? point : best));
      if (distance(nearest) > 60) { tip.hidden = true; return; }
      // All series at the nearest place on the x axis, from the highest down, one point each.
      const near = seen.filter((point) => Math.abs(point.at[0] - nearest.at[0]) < 0.5).sort((a, b) => a.at[1] - b.at[1]);
      const isColumn = new Set(near.map((point) => `${point.series} ${point.note}`)).size === near.length;
      const head = document.createElement("div");
      head.textContent = `${panel.x.label.replace(" →", "") || "x"}: ${words(nearest.x)}`;
      const rows = (isColumn ? near : [nearest]).map((point) => {
        const row = document.createElement(point === nearest ? "b" : "span");
        row.textContent = `${series[point.series]}${point.note ? ` (${point.note})` : ""}: ${words(point.y)}`;
        return row;
      });
      tip.replaceChildren(head, ...rows);
      tip.hidden = false;
      const left = Math.min(event.pageX + 14, window.scrollX + document.documentElement.clientWidth - tip.offsetWidth - 4);
      tip.style.left = `${Math.max(left, 4)}px`;
      tip.style.top = `${event.pageY + 14}px`;
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });

    // A legend entry is a button: a click, Enter or the space bar hides its series and shows it again.
    for (const text of svg.querySelectorAll("[data-series]")) {
      const number = Number(text.dataset.series);
      if (!text.querySelector("text") || text.textContent.trim() !== series[number]) continue;
      text.setAttribute("role", "button");
      text.setAttribute("tabindex", "0");
      text.setAttribute("aria-pressed", "true");
      text.setAttribute("aria-label", `Show ${series[number]}`);
      text.classList.add("entry");
      const toggle = () => {
        if (!hidden.delete(number)) hidden.add(number);
        for (const part of svg.querySelectorAll(`[data-series="${number}"]`)) {
          if (part.classList.contains("entry")) part.setAttribute("aria-pressed", String(!hidden.has(number)));
          else part.classList.toggle("gone", hidden.has(number));
        }
        tip.hidden = true;
      };
      text.addEventListener("click", toggle);
      text.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        toggle();
      });
    }
    // The parts of a picture that reacts are no longer one image to a screen reader.
    if (svg.querySelector(".entry")) figure.querySelector(".drawn").setAttribute("role", "group");
  }
}
