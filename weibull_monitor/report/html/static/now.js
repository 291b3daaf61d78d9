"use strict";
// What is wrong now: the curve of the matrix among the others of its kind, and the alerts that stand.
(() => {
  const MOST = 4; // alerts in full; the table has all
  const AXES = { k: "shape k", lambda: "scale λ", r2: "R²" };

  const build = () => {
    const run = WM.run();
    const { component, column } = run.standing || {};
    const at = run.empty ? undefined : run.index.get(component);
    if (at === undefined) return { title: "", message: "The matrix of this alert is not in the last sample." };
    const { kind } = run.components[at];
    const others = run.components.flatMap((one, i) => (one.kind === kind && i !== at ? [i] : []));
    const every = Math.max(1, Math.ceil(others.length / 60)); // experts by the hundred
    const text = (place, values) =>
      values.map(
        (value, i) =>
          `<b>${WM.plain(WM.short(run.components[place].name))}</b><br>step ${WM.whole(run.frameSteps[i])}: ${WM.round(value)}`,
      );
    const data = others
      .filter((_, i) => i % every === 0)
      .map((place) => {
        const y = run.curve(column, place);
        return WM.line(run.frameSteps, y, run.components[place].name, WM.faint(WM.colour("c0"), 0.55), text(place, y), {
          mode: "lines",
          line: { color: WM.faint(WM.colour("c0"), 0.55), width: 1.2 },
        });
      });
    const y = run.curve(column, at);
    data.push(
      WM.line(run.frameSteps, y, component, WM.colour("bad"), text(at, y), { line: { color: WM.colour("bad"), width: 2.6 } }),
    );
    const alerts = run.standing.alerts.map((i) => run.alerts[i]).filter((alert) => alert.components.includes(component));
    data.push(...WM.alertMarks(alerts, { yaxis: "y2" }));
    return {
      title: `${AXES[column][0].toUpperCase()}${AXES[column].slice(1)} of this matrix${others.length ? `, and of the other ${WM.whole(others.length)} of kind ${kind}` : ""}`,
      data,
      height: 300,
      label: `${AXES[column]} of ${component} over the steps: ${WM.round(y.findLast(Number.isFinite))} at step ${WM.whole(run.frameSteps.at(-1))}.`,
      layout: {
        shapes: WM.alertLines(alerts),
        xaxis: WM.stepAxis(run.frameSteps),
        yaxis: WM.axisOf({ title: { text: AXES[column], standoff: 8 }, nticks: 6 }),
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      },
    };
  };

  const card = (alert) => {
    const run = WM.run();
    const more = alert.count > 1 ? ` and ${WM.whole(alert.count - 1)} more` : "";
    const name = run.index.has(alert.component)
      ? WM.link(alert.component, alert.components.join("\n"))
      : WM.make("span", { class: "name" }, alert.component);
    return WM.make(
      "div",
      { class: `standing ${WM.severity[alert.severity]}` },
      WM.make(
        "p",
        { class: "what" },
        WM.make("span", { class: `badge ${WM.severity[alert.severity]}` }, alert.severity),
        ` ${alert.rule.replaceAll("_", " ")}, since step ${WM.whole(alert.since)}`,
      ),
      WM.make("p", null, name, more),
      alert.value === null ? null : WM.make("p", { class: "found" }, `${alert.found}${alert.expected ? `, expected ${alert.expected}` : ""}`),
      WM.make("p", null, alert.meaning),
    );
  };

  WM.showNow = () => {
    const run = WM.run();
    const wrong = run.empty ? null : run.standing;
    WM.byId("now").hidden = !wrong;
    if (!wrong) return;
    const alerts = wrong.alerts.map((i) => run.alerts[i]);
    const left = alerts.length - MOST;
    WM.fill(
      WM.byId("now-alerts"),
      ...alerts.slice(0, MOST).map(card),
      left > 0 ? WM.make("p", null, WM.make("a", { href: "#alerts" }, `${left} more in the table of alerts`)) : null,
    );
  };

  WM.startNow = () => WM.chart("now", build);
})();
