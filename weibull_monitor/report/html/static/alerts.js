"use strict";
// The alerts that were raised while the run went on.
(() => {
  const mark = (severity) => WM.make("span", { class: `badge ${WM.severity[severity]}` }, severity);

  const columns = (run) => [
    { name: "Severity", value: (one) => one.rank, node: (one) => mark(one.severity) },
    { name: "Rule", value: (one) => one.rule, node: (one) => WM.make("code", null, one.rule) },
    { name: "From step", number: true, value: (one) => one.since, text: (one) => WM.whole(one.since) },
    {
      name: "To step",
      number: true,
      value: (one) => (one.until === null ? Infinity : one.until),
      node: (one) =>
        one.until === null ? WM.make("strong", null, "active") : document.createTextNode(WM.whole(one.until)),
    },
    {
      name: "Where",
      value: (one) => one.component,
      node: (one) => {
        const more = one.count > 1 ? ` and ${WM.whole(one.count - 1)} more` : "";
        if (run.empty || !run.index.has(one.component)) return WM.make("span", { class: "name" }, one.component + more);
        return WM.make("span", null, WM.link(one.component, one.components.join("\n")), more);
      },
    },
    {
      name: "Found",
      value: (one) => one.value,
      text: (one) => one.found,
    },
    { name: "Expected", value: (one) => one.expected, text: (one) => one.expected || "–" },
    { name: "What it means", value: (one) => one.meaning, text: (one) => one.meaning },
  ];

  WM.showAlerts = () => {
    const run = WM.run();
    const box = WM.byId("alert-table");
    if (!run.alerts.length) {
      WM.fill(box, WM.make("p", { class: "card notice" }, run.empty ? run.empty : "No alerts were raised in this run."));
      return;
    }
    WM.fill(
      box,
      WM.make(
        "div",
        { class: "card scroll" },
        WM.table(columns(run), run.alerts, { sortable: true, class: "stack alerts" }),
      ),
    );
  };
})();
