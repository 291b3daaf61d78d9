"use strict";
// Charts that are drawn when they come into view, and again when something has changed.
(() => {
  const charts = new Map();
  const inView = new Set();
  const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset", showTips: false };

  /**
   * Registers a chart. build() returns {data, layout, label, height} or {message}; label says in words what is drawn.
   * drawn(plot) is called after each drawing.
   */
  WM.chart = (id, build, drawn) => {
    const box = document.querySelector(`[data-chart="${id}"]`);
    const title = WM.make("div", { class: "chart-title" });
    const tools = WM.make(
      "div",
      { class: "chart-tools" },
      WM.make("button", { type: "button", class: "small", onclick: () => saveCsv(id) }, "CSV"),
      WM.make("button", { type: "button", class: "small", onclick: () => savePng(id) }, "PNG"),
    );
    const message = WM.make("p", { class: "notice", hidden: true });
    const plot = WM.make("div", { class: "plot" });
    box.prepend(WM.make("div", { class: "chart-head" }, title, tools));
    const last = box.querySelector(":scope > figcaption, :scope > dl");
    for (const part of [message, plot]) box.insertBefore(part, last);
    charts.set(id, { id, box, title, tools, message, plot, build, drawn, stale: true });
    watcher.observe(box);
    widths.observe(box);
  };

  WM.plotOf = (id) => charts.get(id).plot;

  /** Says that charts are not what they should be any more; those in view are drawn at once. */
  WM.redraw = (...ids) => {
    for (const id of ids.length ? ids : charts.keys()) {
      const chart = charts.get(id);
      chart.stale = true;
      if (inView.has(id)) draw(chart);
    }
  };

  WM.drawAll = () => {
    for (const chart of charts.values()) {
      chart.stale = true;
      draw(chart);
    }
  };

  const draw = (chart) => {
    if (!chart.stale) return;
    chart.stale = false;
    const made = chart.build();
    chart.title.textContent = made.title || "";
    chart.message.hidden = !made.message;
    chart.message.textContent = made.message || "";
    chart.plot.hidden = chart.tools.hidden = Boolean(made.message);
    chart.box.classList.toggle("without", Boolean(made.message));
    if (made.message) {
      Plotly.purge(chart.plot);
      return;
    }
    chart.plot.setAttribute("role", "img");
    chart.plot.setAttribute("aria-label", made.label);
    const layout = WM.layoutOf({ height: made.height || 320, width: chart.plot.clientWidth, ...made.layout });
    Plotly.react(chart.plot, made.data, layout, CONFIG);
    chart.plot.dataset.drawn = String(1 + Number(chart.plot.dataset.drawn || 0));
    if (chart.drawn) chart.drawn(chart.plot);
    if (!WM.drawnAt) WM.drawnAt = performance.now();
  };

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const id = entry.target.dataset.chart;
        if (entry.isIntersecting) {
          inView.add(id);
          draw(charts.get(id));
        } else inView.delete(id);
      }
    },
    { rootMargin: "200px 0px" },
  );

  // Heights change with what is drawn; only another width asks for another drawing.
  const widths = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const width = Math.round(contentRect.width);
      if (target.drawnWidth !== undefined && target.drawnWidth !== width && width > 0) WM.redraw(target.dataset.chart);
      target.drawnWidth = width;
    }
  });

  const save = (name, url) => WM.make("a", { href: url, download: name }).click();

  const savePng = (id) =>
    Plotly.toImage(charts.get(id).plot, { format: "png", scale: 2 }).then((url) => save(`${id}.png`, url));

  /** What is drawn, one row a point. */
  const saveCsv = (id) => {
    const cell = (value) => {
      if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
      const text = String(value ?? "")
        .replace(/<br>/g, " ")
        .replace(/&lt;/g, "<")
        .replace(/&gt;/g, ">")
        .replace(/&amp;/g, "&");
      return `"${(/^[=+\-@\t]/.test(text) ? "'" : "") + text.replace(/"/g, '""')}"`; // no spreadsheet takes it for a formula
    };
    const rows = [["series", "x", "y", "value"]];
    for (const trace of charts.get(id).plot.data) {
      if (trace.type === "heatmap") {
        trace.z.forEach((row, i) =>
          row.forEach((value, j) => rows.push([trace.name || id, trace.x[j], trace.y[i], value])),
        );
      } else if (trace.x) {
        for (let i = 0; i < trace.x.length; i++)
          rows.push([trace.meta || trace.name || "", trace.steps ? trace.steps[i] : trace.x[i], trace.y[i], ""]);
      }
    }
    const blob = new Blob([rows.map((row) => row.map(cell).join(",")).join("\r\n")], { type: "text/csv" });
    const url = URL.createObjectURL(blob);
    save(`${id}.csv`, url);
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
})();
