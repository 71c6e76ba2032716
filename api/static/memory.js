// What this browser remembers: the key, the fields of requests, what was removed from sight.
// The server has the tasks themselves.

const PREFIX = "darkroom.";
const MOST_TASKS = 300;
const MOST_HIDDEN = 1000;
const beside = new Map(); // where the browser refuses to store anything

function read(name, otherwise) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return beside.get(name) ?? otherwise;
  }
}

function write(name, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    beside.set(name, value);
  }
}

export const memory = {
  get key() {
    return read("key", "");
  },
  set key(key) {
    write("key", key || null);
  },

  /** The form as it was left. */
  get draft() {
    return read("draft", {});
  },
  set draft(fields) {
    write("draft", fields);
  },

  /** A submit of which it is not known whether it arrived: `{name, body}`, or null. */
  get attempt() {
    return read("attempt", null);
  },
  set attempt(attempt) {
    write("attempt", attempt);
  },

  /** Ids of the tasks that were submitted here, the newest first. */
  get ids() {
    return Object.keys(read("tasks", {})).reverse();
  },
  fieldsOf(id) {
    return read("tasks", {})[id] ?? null;
  },
  keep(id, fields) {
    const tasks = Object.entries({ ...read("tasks", {}), [id]: fields });
    write("tasks", Object.fromEntries(tasks.slice(-MOST_TASKS)));
  },
  forget(id) {
    const { [id]: _, ...others } = read("tasks", {});
    write("tasks", others);
  },

  isHidden: (id) => read("hidden", []).includes(id),
  hide(id) {
    write("hidden", [...read("hidden", []), id].slice(-MOST_HIDDEN));
    this.forget(id);
  },

  clear() {
    for (const name of ["key", "draft", "attempt", "tasks", "hidden"]) write(name, null);
    beside.clear();
  },
};
