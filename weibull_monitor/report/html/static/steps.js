"use strict";
// Curves over the steps: the axis, bands, and alerts upon it.
(() => {
  const ZERO = 0.5; // where step 0 stands on a logarithmic axis

  WM.onAxis = (steps) => (WM.state.axis === "log" ? Array.from(steps, (step) => Math.max(step, ZERO)) : steps);

  WM.stepAxis = (steps, more) => {
    const axis = WM.axisOf({ title: { text: "optimizer step", standoff: 8 }, ...more });
    if (steps.length === 1)
      return { ...axis, tickvals: steps, ticktext: steps.map(WM.whole), range: [steps[0] - 1, steps[0] + 1] };
    const most = steps.length ? steps[steps.length - 1] : 1;
    if (WM.state.axis !== "log")
      return { ...axis, separatethousands: true, rangemode: steps[0] === 0 ? "tozero" : "normal" };
    const ticks = steps[0] === 0 ? [ZERO] : [];
    const decades = Math.log10(Math.max(most, 10));
    for (let decade = 1; decade <= most; decade *= 10) {
      for (const part of decades > 3.2 ? [1] : [1, 2, 5]) if (part * decade <= most) ticks.push(part * decade);
    }
    return { ...axis, type: "log", tickvals: ticks, ticktext: ticks.map((at) => (at === ZERO ? "0" : WM.whole(at))) };
  };

  /** A shade between two curves, out of two traces. */
  WM.band = (steps, low, high, fill, meta, axes = {}) => {
    const edge = {
      type: "scatter",
      mode: "lines",
      x: WM.onAxis(steps),
      line: { width: 0 },
      hoverinfo: "skip",
      showlegend: false,
      steps,
      ...axes,
    };
    return [
      { ...edge, y: low, meta: `${meta}: low` },
      { ...edge, y: high, fill: "tonexty", fillcolor: fill, meta: `${meta}: high` },
    ];
  };

  /** A shade over the whole width of a panel, such as what is published. */
  WM.stripe = (low, high, fillcolor, axes = { xref: "x domain" }) => ({
    type: "rect",
    ...axes,
    x0: 0,
    x1: 1,
    y0: low,
    y1: high,
    fillcolor,
    line: { width: 0 },
    layer: "below",
  });

  WM.line = (steps, y, name, colour, text, more = {}) => ({
    type: "scatter",
    mode: steps.length > 60 ? "lines" : "lines+markers",
    x: WM.onAxis(steps),
    y,
    name: WM.plain(name),
    meta: name,
    steps,
    line: { color: colour, width: 2 },
    marker: { size: steps.length > 3 ? 4 : 9 },
    text,
    hovertemplate: "%{text}<extra></extra>",
    ...more,
  });

  /** Where alerts begin: a triangle each at the top of the panel. */
  WM.alertMarks = (alerts, axes = {}) => {
    if (!alerts.length) return [];
    const bySeverity = ["info", "warning", "error"]
      .map((severity) => alerts.filter((alert) => alert.severity === severity))
      .filter((some) => some.length);
    return bySeverity.map((some) => ({
      type: "scatter",
      mode: "markers",
      x: WM.onAxis(some.map((alert) => alert.since)),
      y: some.map(() => 0.97),
      meta: `alerts: ${some[0].severity}`,
      marker: {
        symbol: "triangle-down",
        size: 10,
        color: WM.colour(WM.severity[some[0].severity]),
        line: { color: WM.colour("card"), width: 1 },
      },
      text: some.map(
        (alert) =>
          `<b>step ${WM.whole(alert.since)} · ${alert.severity}</b><br>${WM.plain(alert.rule)}<br>${WM.plain(WM.short(alert.component))}${alert.count > 1 ? ` and ${alert.count - 1} more` : ""}`,
      ),
      hovertemplate: "%{text}<extra></extra>",
      showlegend: false,
      cliponaxis: false,
      ...axes,
    }));
  };

  /** Lines down from these marks. */
  WM.alertLines = (alerts, axes = { xref: "x", yref: "y domain" }) =>
    alerts.map((alert) => ({
      type: "line",
      ...axes,
      x0: WM.onAxis([alert.since])[0],
      x1: WM.onAxis([alert.since])[0],
      y0: 0,
      y1: 1,
      layer: "below",
      line: { color: WM.faint(WM.colour(WM.severity[alert.severity]), 0.55), width: 1, dash: "dot" },
    }));

  /** The least and the greatest of what there is. */
  WM.extent = (...many) => {
    let [low, high] = [Infinity, -Infinity];
    for (const values of many)
      for (const value of values)
        if (Number.isFinite(value)) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
    return low <= high ? [low, high] : null;
  };

  /** A range with some room about it. */
  WM.roomy = ([low, high], least = 0) => {
    const room = Math.max(0.06 * (high - low), (least - (high - low)) / 2, 1e-9);
    return [low - room, high + room];
  };
})();
