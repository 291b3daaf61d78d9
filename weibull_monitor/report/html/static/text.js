"use strict";
// Numbers, words and elements. Text that comes from a run is only ever set as text, never as markup.
const WM = {};

(() => {
  WM.byId = (id) => document.getElementById(id);

  /** An element: WM.make("td", {class: "number"}, "text", child, …). */
  WM.make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  /** A button with a component's name, which shows its probability plot. */
  WM.link = (name, title) => {
    const show = () => {
      WM.choose(name);
      WM.byId("probability").scrollIntoView();
    };
    return WM.make("button", { type: "button", class: "link name", title, onclick: show }, name);
  };

  WM.fill = (element, ...children) => element.replaceChildren(...children.filter((child) => child !== null));

  /** Text for plotly, which takes a few tags for markup. */
  WM.plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const there = (value) => typeof value === "number" && Number.isFinite(value);
  WM.there = there;
  WM.fixed = (value, digits) => (there(value) ? value.toFixed(digits).replace("-", "−") : "–");
  WM.signed = (value, digits) => (there(value) ? (value > 0 ? "+" : "") + WM.fixed(value, digits) : "–");
  WM.whole = (value) => (there(value) ? value.toLocaleString("en-US") : "–");
  WM.round = (value, digits = 3) => {
    if (!there(value)) return "–";
    const text = Number(value.toPrecision(digits));
    const size = Math.abs(text);
    return (size !== 0 && (size < 1e-4 || size >= 1e6) ? text.toExponential() : String(text)).replace("-", "−");
  };

  /** The last parts of a name that is too long for a title. */
  WM.short = (name, most = 46) => (name.length <= most ? name : "…" + name.slice(1 - most));

  WM.say = (text) => {
    WM.byId("said").textContent = text;
  };

  /** A table that is sorted by its headers. columns: {name, value(row), text(row) or node(row), number}. */
  WM.table = (columns, rows, options = {}) => {
    const body = WM.make("tbody");
    const sorted = { column: null, down: false };
    const draw = () => {
      const order = [...rows];
      if (sorted.column) {
        const key = sorted.column.value;
        order.sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === y) return 0;
          if (x === null || x === undefined) return 1;
          if (y === null || y === undefined) return -1;
          return (x < y ? -1 : 1) * (sorted.down ? -1 : 1);
        });
      }
      WM.fill(
        body,
        ...order.map((row) =>
          WM.make(
            "tr",
            { class: options.rowClass && options.rowClass(row) },
            ...columns.map((column) =>
              WM.make(
                column.head ? "th" : "td",
                {
                  class: column.number ? "number" : null,
                  scope: column.head ? "row" : null,
                  "data-label": column.name,
                },
                column.node ? column.node(row) : column.text(row),
              ),
            ),
          ),
        ),
      );
    };
    const heads = columns.map((column) => {
      if (!options.sortable)
        return WM.make("th", { scope: "col", class: column.number ? "number" : null }, column.name);
      const head = WM.make("th", { scope: "col", class: column.number ? "number" : null, "aria-sort": "none" });
      head.append(
        WM.make(
          "button",
          {
            type: "button",
            class: "sort",
            onclick: () => {
              sorted.down = sorted.column === column ? !sorted.down : false;
              sorted.column = column;
              for (const other of heads) other.setAttribute("aria-sort", "none");
              head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
              draw();
            },
          },
          column.name,
        ),
      );
      return head;
    });
    draw();
    return WM.make(
      "table",
      { class: options.class },
      options.caption ? WM.make("caption", null, options.caption) : null,
      WM.make("thead", null, WM.make("tr", null, ...heads)),
      body,
    );
  };

  /** Radio buttons that look like one bar; says which is chosen. */
  WM.segments = (box, name, choices, chosen, choose) => {
    for (const old of box.querySelectorAll("label")) old.remove();
    for (const [value, text] of choices) {
      const input = WM.make("input", { type: "radio", name, value, onchange: () => choose(value) });
      input.checked = value === chosen;
      box.append(WM.make("label", null, input, WM.make("span", null, text)));
    }
  };

  WM.options = (select, choices, chosen) => {
    WM.fill(select, ...choices.map(([value, text]) => WM.make("option", { value }, text)));
    select.value = String(chosen);
  };
})();
