// Follows the tasks that are not over.
//
// A browser opens six connections to a server, all its tabs together, and a stream holds one. So
// two tasks are followed live, and none by a tab that nobody sees; all of them are asked after now
// and then, which also brings what events do not tell: the place in the queue, the time left.

import { pause, Refused } from "./api.js";
import { isFinal } from "./words.js";

const STREAMS = 2;
const WAIT = 20; // seconds that an answer is held where there are no events
const ROUND = 2.5; // seconds between two rounds of asking, and more the more there is to ask

export class Watch {
  #api;
  #changed;
  #gone;
  #open = new Map(); // id -> its stream's AbortController, or null
  #asking = false;
  #events = true;

  /** `changed(task)` gets what is known anew, whole or in part; `gone(id, error)` ends it. */
  constructor(api, changed, gone) {
    this.#api = api;
    this.#changed = changed;
    this.#gone = gone;
    document.addEventListener("visibilitychange", () => this.#assign());
  }

  add(id) {
    if (this.#open.has(id)) return;
    this.#open.set(id, null);
    this.#assign();
    this.#ask();
  }

  drop(id) {
    this.#open.get(id)?.abort();
    this.#open.delete(id);
    this.#assign();
  }

  stop() {
    for (const id of [...this.#open.keys()]) this.drop(id);
  }

  #assign() {
    const running = [...this.#open].filter(([, stream]) => stream);
    if (document.hidden) {
      for (const [id, stream] of running) {
        stream.abort();
        this.#open.set(id, null);
      }
      return;
    }
    let free = STREAMS - running.length;
    for (const [id, stream] of this.#open) {
      if (free <= 0) return;
      if (stream) continue;
      free--;
      this.#follow(id);
    }
  }

  async #follow(id) {
    const stream = new AbortController();
    this.#open.set(id, stream);
    try {
      while (this.#open.get(id) === stream) {
        if (this.#events) {
          const told = (name, data) => {
            if (name !== "image") this.#learn({ id, ...data });
          };
          if (!(await this.#api.follow(id, told, stream.signal))) this.#events = false;
          else this.#learn(await this.#api.task(id, { signal: stream.signal }));
        } else {
          this.#learn(await this.#api.task(id, { wait: WAIT, signal: stream.signal }));
        }
      }
    } catch (error) {
      if (stream.signal.aborted) return;
      if (error instanceof Refused && error.status < 500) return this.#lose(id, error);
      // The rounds go on; this task may be followed again when one of them gets an answer.
      await pause(ROUND * 2);
      if (this.#open.get(id) === stream) {
        this.#open.set(id, null);
        this.#assign();
      }
    }
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    while (this.#open.size) {
      for (const id of [...this.#open.keys()]) {
        try {
          if (this.#open.has(id)) this.#learn(await this.#api.task(id));
        } catch (error) {
          if (error instanceof Refused && error.status < 500) this.#lose(id, error);
          else break; // the others would fare no better
        }
      }
      await pause(ROUND + this.#open.size / 4);
    }
    this.#asking = false;
  }

  #learn(task) {
    if (!this.#open.has(task.id)) return;
    this.#changed(task);
    if (isFinal(task) && task.data) this.drop(task.id);
  }

  #lose(id, error) {
    this.drop(id);
    this.#gone(id, error);
  }
}
