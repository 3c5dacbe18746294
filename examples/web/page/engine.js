/** The worker that does the work, as promises. */

/** @typedef {object} Waiting
 * @property {(result: any) => void} result @property {(error: Error) => void} failed
 * @property {(share: number) => void} share
 */

export class Engine {
  #worker = new Worker(new URL("../engine/worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #last = 0;

  constructor() {
    this.#worker.addEventListener("message", ({ data: { id, result, error, share } }) => {
      const waiting = this.#waiting.get(id);
      if (!waiting) return;
      if (share !== undefined) return waiting.share(share);
      this.#waiting.delete(id);
      if (error) waiting.failed(new Error(error));
      else waiting.result(result);
    });
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault();
      for (const { failed } of this.#waiting.values())
        failed(
          new Error("The page could not start. Reload it; if that does not help, build it again."),
        );
      this.#waiting.clear();
    });
  }

  /** null where a newer call of the task came before this one was done.
   * @param {string} task @param {object} given
   * @param {(share: number) => void} share of what is done, on the way @returns {Promise<any>} */
  ask(task, given = {}, share = () => {}) {
    const id = ++this.#last;
    return new Promise((result, failed) => {
      this.#waiting.set(id, { result, failed, share });
      this.#worker.postMessage({ ...given, id, task });
    });
  }

  /** End a save that is under way. */
  cancel() {
    this.#worker.postMessage({ id: ++this.#last, task: "cancel" });
  }
}
