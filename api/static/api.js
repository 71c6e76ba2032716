// The HTTP API, as these pages use it.

const BASE = new URL(".", document.baseURI);
const TRIES = 3; // of a submit that does not arrive

/** The server said no. `error` is the object of that name in its answer. */
export class Refused extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(error.message ?? `The server answered ${status}.`);
    this.status = status;
    this.error = error;
    this.fields = body?.validation_errors ?? [];
  }
}

/** The server did not say anything. */
export class Unreachable extends Error {}

export const address = (path) => new URL(path.replace(/^\//, ""), BASE);

/** Where a picture is on this server, whatever name the server has for itself. */
export function pictureAddress(image) {
  if (image.b64_json) return `data:image/png;base64,${image.b64_json}`;
  if (!image.url) return "";
  const { pathname, search } = new URL(image.url, BASE);
  return address(pathname.slice(Math.max(0, pathname.lastIndexOf("/files/"))) + search).href;
}

export function thumbnail(image, side) {
  const whole = pictureAddress(image);
  return whole.startsWith("data:") ? whole : `${whole}&thumbnail=${side}`;
}

/** Where a browser saves it from: what comes from another host it would show instead. */
export function download(image) {
  const whole = pictureAddress(image);
  return whole.startsWith("data:") ? whole : `${whole}&download=1`;
}

/** A name for a submit. randomUUID is there with https or on this machine only. */
export function newName() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), {
      once: true,
    });
  });

export class Api {
  constructor(key) {
    this.key = key;
  }

  models = async () => {
    const [recommended, all] = await Promise.all([
      this.#json("GET", "v1/models?recommended_for=image"),
      this.#json("GET", "v1/models?category=image"),
    ]);
    const ranked = new Set(recommended.data.map((model) => model.id));
    return [...recommended.data, ...all.data.filter((model) => !ranked.has(model.id))];
  };

  tasks = (after, limit = 50) =>
    this.#json("GET", `v1/tasks?limit=${limit}${after ? `&after=${after}` : ""}`);

  task = (id, { wait, signal } = {}) =>
    this.#json("GET", `v1/tasks/${id}${wait ? `?wait=${wait}` : ""}`, { signal });

  usage = () => this.#json("GET", "v1/usage");

  cancel = (id) => this.#json("DELETE", `v1/tasks/${id}`);

  /** An operation of operators: what `v1/admin/${path}` answers. */
  admin = (method, path, fields) =>
    this.#json(method, `v1/admin/${path}`, fields && {
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });

  /** Submit, and again under the same name while the server does not answer: it is one task. */
  async submit(fields, name) {
    for (let tried = 1; ; tried++) {
      try {
        const headers = { "Content-Type": "application/json", "Idempotency-Key": name };
        const body = JSON.stringify(fields);
        return await this.#json("POST", "v1/images/generations", { headers, body });
      } catch (error) {
        if (!(error instanceof Unreachable) || tried === TRIES) throw error;
        await pause(2 ** (tried - 1));
      }
    }
  }

  /**
   * Follow a task by server-sent events until it is over: `told(name, data)` for each. Takes up a
   * broken stream where it broke; Unreachable when it breaks again and again. False where the
   * server has no events.
   */
  async follow(id, told, signal) {
    let last;
    for (let silent = 0; silent < 5; silent++) {
      try {
        const headers = { Accept: "text/event-stream" };
        if (last !== undefined) headers["Last-Event-ID"] = last;
        const answer = await this.#fetch("GET", `v1/tasks/${id}/events`, { headers, signal });
        if (answer.status === 204) return true;
        for await (const event of events(answer.body)) {
          silent = 0;
          last = event.id ?? last;
          told(event.name, JSON.parse(event.data));
          if (event.name === "done") return true;
        }
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        const unsupported = [404, 405].includes(error.status);
        if (unsupported && error.error.code !== "async_task_not_found") return false;
        if (error instanceof Refused && error.status < 500) throw error;
      }
      await pause(1 + silent, signal);
    }
    throw new Unreachable("The stream breaks off again and again.");
  }

  async #json(method, path, options) {
    const answer = await this.#fetch(method, path, options);
    return await answer.json().catch(() => {
      throw new Unreachable("The answer was cut off.");
    });
  }

  async #fetch(method, path, { headers = {}, body, signal } = {}) {
    const authorised = this.key ? { Authorization: `Bearer ${this.key}`, ...headers } : headers;
    let answer;
    try {
      const options = { method, headers: authorised, body, signal, credentials: "omit" };
      answer = await fetch(address(path), options);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw new Unreachable("The server cannot be reached.", { cause: error });
    }
    if (answer.ok) return answer;
    throw new Refused(answer.status, await answer.json().catch(() => null));
  }
}

/** The events of a stream, as the HTML standard says they are to be read. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { name: "message", data: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
          event = { name: "message", data: [] };
          continue;
        }
        const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
        if (field === "event") event.name = text;
        else if (field === "data") event.data.push(text);
        else if (field === "id") event.id = text;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
