// Browsers do not let a page from a disk start the worker that searches: say how to get one that may.
if (location.protocol === "file:") {
  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".md-search, label[for=__search]").forEach((one) => one.remove());
    const note = document.createElement("div");
    note.className = "from-disk";
    note.innerHTML =
      "To search, serve these pages: <code>python -m http.server --directory site</code>, then open <a href='http://localhost:8000'>localhost:8000</a>.";
    document.querySelector(".md-header").after(note);
  });
}
