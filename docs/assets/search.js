// Browsers start no worker for a page from a disk. There a hidden frame does the worker's part, so that the search works too.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data })); // what the worker answers
      inner.importScripts = () => {}; // of other languages
      const script = inner.document.createElement("script");
      script.src = String(url);
      script.onload = () => {
        const { waiting } = this;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      };
      inner.document.body.append(script);
    }
    postMessage(data) {
      const inner = this.frame.contentWindow;
      if (this.waiting) this.waiting.push(data);
      else inner.dispatchEvent(new inner.MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
