"use strict";
// The head of the page: names, figures to see first, facts.
(() => {
  const SECTIONS = [
    ["now", "What is wrong"],
    ["heatmap", "Heatmap"],
    ["classes", "Classes"],
    ["law", "Scaling law"],
    ["kinds", "Kinds"],
    ["probability", "Probability plot"],
    ["alerts", "Alerts"],
    ["published", "Published models"],
    ["runs", "Runs"],
  ];

  const UNLIKE = ["Began", "History", "Cost of monitoring"]; // differ in all runs, and say nothing of them

  /** Facts of the runs side by side; only those that differ, if so asked. */
  WM.factsTable = (differing = false) => {
    const of = (run, label) => run.facts.find(([name]) => name === label)?.[1] ?? "–";
    let labels = [...new Set(WM.runs.flatMap((run) => run.facts.map(([label]) => label)))];
    if (differing)
      labels = labels.filter(
        (label) => !UNLIKE.includes(label) && new Set(WM.runs.map((run) => of(run, label))).size > 1,
      );
    return WM.table(
      [
        { name: "", head: true, text: (label) => label },
        ...WM.runs.map((run) => ({ name: run.name, text: (label) => of(run, label) })),
      ],
      labels,
      { class: WM.runs.length > 1 ? "facts" : "facts single" },
    );
  };

  WM.showOverview = () => {
    const run = WM.run();
    const several = WM.runs.length > 1;
    WM.byId("title").textContent = several ? `${WM.runs.length} runs` : run.name;
    const wrong = run.standing?.sentence || "";
    WM.fill(
      WM.byId("headline"),
      several ? `${run.name}: ` : "",
      WM.make("strong", { class: wrong ? "wrong" : null }, wrong),
      (run.empty || run.headline || "").slice(wrong.length),
    );
    WM.fill(
      WM.byId("tiles"),
      ...(run.empty ? [] : run.tiles).map((tile) =>
        WM.make(
          "div",
          { class: `tile ${tile.tone}` },
          WM.make("span", { class: "label" }, tile.label),
          WM.make("strong", null, tile.value),
          WM.make("span", { class: "detail" }, tile.detail),
        ),
      ),
    );
    WM.fill(WM.byId("facts"), WM.factsTable());
    const brief = ["Model", "Attention", "Steps"]
      .map((label) => run.facts.find(([name]) => name === label)?.[1])
      .filter(Boolean);
    WM.byId("facts-brief").textContent = several
      ? ""
      : `${brief[0]} · ${brief[1]} · ${brief[2] || 0} steps · ${WM.whole(run.steps.length)} ${run.steps.length === 1 ? "sample" : "samples"}`;
    WM.fill(
      WM.byId("nav"),
      ...SECTIONS.filter(([id]) => (id !== "runs" || several) && (id !== "now" || run.standing)).map(([id, text]) =>
        WM.make("a", { href: `#${id}` }, text),
      ),
    );
    WM.byId(run.standing ? "heatmap" : "overview").after(WM.byId("run-box")); // what is wrong comes first
    WM.byId("run-pick").hidden = !several;
    WM.byId("axis-pick").hidden = !WM.runs.some((one) => one.steps.length > 2);
    WM.options(
      WM.byId("run"),
      WM.runs.map((one, i) => [i, one.name]),
      WM.state.run,
    );
    WM.byId("made").textContent =
      `${WM.live ? "Follows the run; last read" : "Made"} ${WM.data.made} by weibull-monitor ${WM.data.version}.`;
  };
})();
