/* A page that was opened from a file may not start a worker, and search wants one: it then runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.inner = new Promise((resolve, reject) => {
        frame.addEventListener("load", () => {
          const inner = frame.contentWindow;
          inner.importScripts = (...scripts) =>
            scripts.reduce((before, script) => before.then(() => load(inner, script)), Promise.resolve());
          inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", {data}));
          load(inner, url).then(() => resolve(inner), reject);
        }, {once: true});
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.inner.then((inner) => inner.dispatchEvent(new inner.MessageEvent("message", {data})));
    }
  };

  function load(inner, url) {
    return new Promise((resolve, reject) => {
      const script = inner.document.createElement("script");
      script.addEventListener("load", resolve);
      script.addEventListener("error", reject);
      script.src = url;
      inner.document.head.append(script);
    });
  }
}
