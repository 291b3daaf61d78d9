"use strict";
// What is chosen, what follows from a choice, and newer data while a run goes on.
(() => {
  WM.NORMAL = 1.205434; // k of a normal distribution: weibull_monitor.measure.weibull.anchors()
  WM.live = document.documentElement.dataset.live === "true";
  WM.state = {
    run: 0,
    step: "last",
    quantity: "k",
    quantityChosen: false, // by hand; until then it is what the alert that stands is about
    kindsChosen: false,
    experts: "median",
    component: null,
    plot: "last",
    axis: "linear",
    kindsQuantity: "k",
    lawKind: null,
    sweepGroup: null,
    sweepX: "effective",
  };

  WM.run = () => WM.runs[WM.state.run];

  /** The frame that the slider stands at: that of the last sample, until it is moved from there. */
  WM.frame = () => {
    const run = WM.run();
    return WM.state.step === "last" ? run.last : run.frameAt(WM.state.step);
  };

  WM.setFrame = (frame) => {
    const run = WM.run();
    WM.state.step = frame >= run.last ? "last" : run.frameSteps[frame];
    WM.showFrames();
    WM.redraw("heat", ...(run.plots.steps.length ? [] : ["probability"]));
  };

  WM.choose = (name) => {
    WM.state.component = name;
    const run = WM.run();
    const at = run.index.get(name);
    WM.showChoice();
    WM.redraw("heat", "probability", "kinds");
    const frame = WM.frame();
    WM.say(
      `${name}: k ${WM.fixed(run.value("k", frame, at), 4)}, λ ${WM.round(run.value("lambda", frame, at))}, R² ${WM.fixed(run.value("r2", frame, at), 4)}`,
    );
  };

  /** A matrix to begin with: that of the gravest alert, else the one whose k has moved furthest from where it was. */
  const firstChoice = (run) => {
    if (run.standing && run.index.has(run.standing.component)) return run.standing.component;
    const serious = run.alerts.filter((alert) => alert.rank > 1 && run.index.has(alert.component));
    if (serious.length) return serious.reduce((a, b) => (b.rank > a.rank ? b : a)).component;
    let [best, most] = [0, -1];
    run.components.forEach((component, i) => {
      if (!["selection", "transmission"].includes(run.classOf(component.name))) return;
      const moved = Math.abs(
        run.baseline ? run.figure("drift", run.last, i) : run.value("k", run.last, i) / WM.NORMAL - 1,
      );
      if (moved > most) [best, most] = [i, moved];
    });
    return run.components[best]?.name ?? null;
  };

  const take = (data) => {
    WM.data = data;
    WM.runs = data.runs.map((run, place) => new WM.Run(run, place));
    WM.state.run = Math.min(WM.state.run, WM.runs.length - 1);
    const run = WM.run();
    if (run && !run.empty && !run.index.has(WM.state.component)) WM.state.component = firstChoice(run);
    if (run && !run.empty && !WM.state.quantityChosen) WM.state.quantity = run.standing ? run.standing.colour : "k";
    if (run && !run.empty && !WM.state.kindsChosen) WM.state.kindsQuantity = run.standing ? run.standing.column : "k";
  };

  const show = () => {
    WM.showOverview();
    WM.showNow();
    WM.showClasses();
    WM.showFrames();
    WM.showMatrices();
    WM.showChoice();
    WM.showKinds();
    WM.showLaw();
    WM.showAlerts();
    WM.showPublished();
    WM.showRuns();
    WM.redraw();
  };

  const REFRESH = 2000; // ms
  const follow = async () => {
    try {
      const answer = await fetch(`data?revision=${encodeURIComponent(WM.data.revision)}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(await answer.text());
      document.body.classList.remove("lost");
      if (answer.status !== 204) {
        const data = await answer.json();
        const [x, y] = [scrollX, scrollY];
        const focus = document.activeElement?.id;
        take(data);
        show();
        scrollTo(x, y);
        if (focus && document.activeElement?.id !== focus) WM.byId(focus)?.focus({ preventScroll: true });
      }
    } catch {
      document.body.classList.add("lost");
      WM.byId("made").textContent = `The server does not answer; this is what it said last, ${WM.data.made}.`;
    }
    setTimeout(follow, REFRESH);
  };

  const first = JSON.parse(WM.byId("data").textContent);
  WM.state.run = Math.max(
    0,
    first.runs.findIndex((run) => !run.empty),
  );
  take(first);
  WM.byId("data").textContent = "";
  WM.startTheme(() => WM.redraw());
  WM.startNow();
  WM.startClasses();
  WM.startHeatmap();
  WM.startProbability();
  WM.startKinds();
  WM.startLaw();
  WM.startPublished();
  WM.startRuns();
  WM.byId("run").addEventListener("change", (event) => {
    WM.state.run = Number(event.target.value);
    take(WM.data);
    show();
  });
  WM.byId("axis").addEventListener("change", (event) => {
    WM.state.axis = event.target.value;
    WM.redraw("now", "class-selection", "class-transmission", "attention", "updates", "kinds", "forecast");
  });
  addEventListener("beforeprint", () => {
    WM.byId("facts-box").open = true;
  });
  show();
  if (WM.live) setTimeout(follow, REFRESH);
})();
