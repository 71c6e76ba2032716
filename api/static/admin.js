// The operator's page: shows how everything stands, again and again, and does what is confirmed.

import { Api, Refused } from "./api.js";
import { Chart } from "./charts.js";
import { closable, el, find, say } from "./dom.js";
import { button, cell, fill } from "./table.js";
import { advice, ago, duration, money, plural } from "./words.js";

const OFTEN = 3; // seconds between two looks at what moves
const SELDOM = 20; // and at what is sampled or sums up
const LONGEST = 30; // between two tries while the server does not answer
const KEY = "darkroom.operator";

const REASONS = {
  rate_limited: "asked us to wait",
  failing: "fails again and again",
  no_credit: "no credit left",
  bad_key: "refuses our key",
  not_served: "does not serve the model",
  full: "waits for a place",
  paused: "paused",
};

const api = new Api("");
let user = 0; // grows with each change of key, so that answers for the one before are let go
let seen = null; // the last overview
let shown = "open"; // which tasks
let ofKey = null; // the key whose tasks are listed
let opened = null; // the id of the task in the dialog
let failures = 0; // looks in a row that brought no answer
let timer = 0;
let seldomAt = 0;
let freshAt = 0;

const minutes = (value) => (value === null || value === undefined ? "–" : `${Number(value.toFixed(1))}/min`);
const seconds = (value) => (value === null || value === undefined ? "–" : value < 60 ? `${Number(value.toFixed(1))} s` : duration(value));
const count = (value) => (value === null || value === undefined ? "–" : String(value));
const charts = {
  throughput: new Chart(find("chart-throughput"), "Throughput", [
    { name: "completed", of: (point) => point.completed_per_minute },
    { name: "failed", of: (point) => point.failed_per_minute },
  ], minutes),
  queue: new Chart(find("chart-queue"), "Queue", [
    { name: "waiting", of: (point) => point.waiting },
    { name: "with a worker", of: (point) => point.taken },
  ], count),
  latency: new Chart(find("chart-latency"), "From submit to pictures", [
    { name: "half within", of: (point) => point.p50_seconds },
    { name: "95 of 100 within", of: (point) => point.p95_seconds },
  ], seconds),
};

// -- the key: in this tab only

const memory = {
  beside: "", // where the browser refuses to store anything
  get key() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return this.beside;
    }
  },
  set key(key) {
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      this.beside = key;
    }
  },
};

function keyOfAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key === null) return false;
  history.replaceState(null, "", location.pathname + location.search);
  signIn(key.trim());
  return true;
}

async function signIn(key) {
  if (!/^[\x21-\x7e]{1,512}$/.test(key)) return askForKey("That cannot be an API key.");
  try {
    const overview = await new Api(key).admin("GET", "overview");
    user++;
    api.key = memory.key = key;
    find("sign-in").hidden = true;
    find("all").hidden = find("sign-out").hidden = find("fresh").hidden = false;
    find("key").value = "";
    banner("");
    show(overview);
    seldomAt = 0;
    look();
  } catch (error) {
    const known = error instanceof Refused && error.status < 500;
    if (!known || api.key) banner(known ? keyProblem(error) : error.message);
    if (!api.key) askForKey(known ? keyProblem(error) : "", key); // whoever is signed in stays
  }
}

function keyProblem({ status, error }) {
  if (status === 403) return `This key is not an operator's: it cannot open this page. ${advice(error)}`;
  return error.code === "expired_api_key" ? "The key has expired." : "This server does not know the key.";
}

function leave() {
  user++;
  api.key = memory.key = "";
  clearTimeout(timer);
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const body of document.querySelectorAll("tbody")) body.replaceChildren();
  for (const chart of Object.values(charts)) chart.draw([]);
  for (const id of ["all", "sign-out", "fresh"]) find(id).hidden = true;
  find("task-body").replaceChildren();
  seen = null;
}

function askForKey(problem = "", key = "") {
  find("sign-in").hidden = false;
  find("key").value = key;
  find("key-problem").hidden = !problem;
  find("key-problem").textContent = problem;
  find("key").toggleAttribute("aria-invalid", Boolean(problem));
  if (problem) find("key").focus();
}

function banner(text) {
  find("banner").hidden = !text;
  find("banner").textContent = text;
}

// -- looking again and again

/** Look at everything that is to be looked at now; then once more, but not while nobody sees it. */
async function look() {
  clearTimeout(timer);
  if (!api.key || document.hidden) return;
  const mine = user;
  const seldom = Date.now() >= seldomAt;
  try {
    const asked = [api.admin("GET", "overview"), api.admin("GET", tasksAddress())];
    if (seldom) asked.push(api.admin("GET", "history"), api.admin("GET", "keys"));
    if (opened) asked.push(api.admin("GET", `tasks/${opened}`).catch(gone));
    const list = shown;
    const [overview, tasks, ...rest] = await Promise.all(asked);
    if (mine !== user) return;
    show(overview);
    if (list === shown) showTasks(tasks.data);
    if (seldom) {
      const [history, keys] = rest.splice(0, 2);
      showHistory(history.data);
      showKeys(keys);
      seldomAt = Date.now() + SELDOM * 1000;
    }
    if (rest[0]?.id === opened) showTask(rest[0]);
    failures = 0;
    freshAt = Date.now();
    tick();
    banner("");
  } catch (error) {
    if (mine !== user) return;
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      leave();
      return askForKey(keyProblem(error));
    }
    failures++;
    banner(`${error.message} ${error instanceof Refused ? advice(error.error) : ""} What is shown is old.`);
  }
  clearTimeout(timer);
  timer = setTimeout(look, Math.min(LONGEST, OFTEN * 2 ** failures) * 1000);
}

/** A task that is open on the page is not kept any more: that is no trouble of the server. */
function gone(error) {
  if (error.status !== 404) throw error;
  return null;
}

const tasksAddress = () => (shown === "key" ? `tasks?key=${encodeURIComponent(ofKey)}` : `tasks?show=${shown}`);

function tick() {
  if (!freshAt) return;
  const old = (Date.now() - freshAt) / 1000;
  find("fresh").textContent = old < 2 * OFTEN ? "up to date" : `as of ${duration(old)} ago`;
}

// -- what is shown

const state = (kind, text) => cell(`${kind} ${text}`, () => [el("span", { class: `state ${kind}` }, text)]);

function show(overview) {
  seen = overview;
  const { tasks, processes, webhooks, redis } = overview;
  const workers = processes.filter(({ kind, alive }) => kind === "worker" && alive).length;
  const sweeps = processes.filter(({ kind, alive }) => kind === "sweep" && alive).length;
  const limit = redis.memory_limit_bytes;
  tiles([
    ["Waiting", tasks.waiting],
    ["Longest wait", tasks.waiting ? seconds(tasks.oldest_waiting_seconds) : "–", tasks.oldest_waiting_seconds > 300],
    ["With a worker", tasks.taken],
    ["Open", tasks.open],
    ["Due now", tasks.due, tasks.sweep_lag_seconds > 30],
    ["Workers", workers, !workers],
    ["Sweeps", sweeps, !sweeps],
    ["Webhooks owed", webhooks.owed, webhooks.lag_seconds > 60],
    redis.memory_bytes !== null && [
      "Redis",
      `${Math.round(redis.memory_bytes / 1e6)} MB`,
      redis.writes_to_disk === false || (limit > 0 && redis.memory_bytes > 0.75 * limit),
    ],
  ]);
  showRoutes();
  fill(find("processes"), processes.map(({ name, kind, alive, seen_seconds, holds }) => ({
    key: `${kind} ${name}`,
    cells: [
      `${kind} ${name}`,
      alive ? state("good", "alive") : state("bad", `not seen for ${duration(seen_seconds)}`),
      kind === "sweep" ? "" : holds.map((held) => `${held.tasks} × ${held.model}, for ${seconds(held.oldest_seconds)} at most`).join("; ") || "nothing",
    ],
  })));
  find("no-processes").hidden = processes.length > 0;
}

function tiles(told) {
  find("tiles").replaceChildren(
    ...told.filter(Boolean).map(([name, value, bad]) =>
      el("div", { class: bad && "bad" }, el("dt", {}, name), el("dd", {}, String(value))),
    ),
  );
}

const pausable = (kind, name, paused) =>
  cell(paused ? "resume" : "pause", () => [
    paused
      ? button("resume", "Resume", () => resume(kind, name), { "aria-label": `Resume ${name}` })
      : button("pause", "Pause", () => pause(kind, name), { "aria-label": `Pause ${name}` }),
  ]);

function stateOf({ state: is, reason, opens_in_seconds, paused_seconds }, otherwise = "open") {
  if (is === "paused") return state("wait", `paused for ${duration(paused_seconds)}`);
  if (is === "shut") return state("bad", `${REASONS[reason] ?? reason}; tried again in ${duration(opens_in_seconds)}`);
  return state("good", otherwise);
}

/** What workers hold of a provider's queue, and what waits in it. */
function queueOf(provider) {
  const queue = seen.queues.find((one) => one.queue === `images.${provider}`);
  if (!queue) return ["", ""];
  const { taken, waiting, oldest_waiting_seconds: oldest } = queue;
  return [taken ? `${taken} with a worker` : "", waiting ? `${waiting}, for ${seconds(oldest)} at most` : ""];
}

function showRoutes() {
  const { accounts, routes, models } = seen;
  const all = find("unconfigured").checked;
  const rows = [];
  for (const account of accounts.filter(({ configured }) => all || configured)) {
    const { provider, configured } = account;
    rows.push({
      key: `provider ${provider}`,
      group: true,
      cells: [provider, configured ? stateOf(account) : "no key", ...queueOf(provider), "", pausable("provider", provider, account.state === "paused")],
    });
    for (const route of routes.filter((one) => one.provider === provider)) {
      rows.push({
        key: `route ${route.route}`,
        cells: [
          route.route.slice(provider.length + 1),
          configured ? stateOf(route) : "",
          route.cap === null ? cell("no cap", () => [el("span", { class: "dim" }, "no cap")]) : `${route.in_flight} of ${route.cap}`,
          route.waiting ? `${route.waiting} for a place` : "",
          route.models.join(", "),
          pausable("route", route.route, route.state === "paused"),
        ],
      });
    }
  }
  fill(find("routes"), rows);
  fill(find("models"), models.map(({ model, routes: by, paused_seconds }) => ({
    key: model,
    cells: [
      model,
      paused_seconds === null ? state("good", "open") : state("wait", `paused for ${duration(paused_seconds)}`),
      by.join(", "),
      pausable("model", model, paused_seconds !== null),
    ],
  })));
}

const short = (id) => `${id.slice(0, 16)}…`;

function statusOf(task) {
  if (task.status === "completed") return state("good", "completed");
  if (task.cancellation === "cancelled") return state("", "cancelled");
  if (task.status === "failed") return state("bad", `${task.error}, billed: ${task.billed}`);
  if (task.blocked) return state("wait", REASONS[task.blocked] ?? task.blocked);
  if (task.cancellation === "requested") return state("wait", "being cancelled");
  if (!task.held_by) return state("", task.status === "pending" ? "waiting for a worker" : "waiting");
  return state("good", task.progress ? `with a worker, ${task.progress} %` : "with a worker");
}

function showTasks(tasks) {
  fill(find("tasks"), tasks.map((task) => ({
    key: task.id,
    cells: [
      cell(task.id, () => [
        button("open", short(task.id), () => open(task.id), { class: "plain", title: task.id, "aria-label": `Task ${task.id}` }),
      ]),
      task.model,
      statusOf(task),
      ago(task.submitted),
      task.owner,
      actionsOf(task),
    ],
  })));
  find("no-tasks").hidden = tasks.length > 0;
  find("no-tasks").textContent = { open: "No task is open.", failed: "No task that failed is kept.", key: "This key has no task." }[shown];
}

/** The one thing that can be done about a task in a list; `build` makes it for the dialog as well. */
function actionsOf(task) {
  if (task.status === "completed" || task.cancellation === "cancelled") return "";
  if (task.status !== "failed") return cell("cancel", () => [cancelButton(task)]);
  if (task.retried_as) return cell(task.retried_as, () => [el("span", { class: "dim" }, "retried")]);
  return cell(`retry ${task.billed}`, () => [retryButton(task)]);
}

const cancelButton = (task) => button("cancel", "Cancel", () => cancel(task), { "aria-label": `Cancel ${task.id}` });
const retryButton = (task) => button("retry", "Retry", () => retry(task), { "aria-label": `Retry ${task.id}` });

function showHistory(points) {
  for (const chart of Object.values(charts)) chart.draw(points);
}

function showKeys({ data, total }) {
  const rows = data.map((key) => ({
    key: key.id,
    cells: [
      cell(`${key.name} ${key.id}`, () => [key.name, " ", el("span", { class: "dim" }, key.id)]),
      key.admin && key.state === "valid" ? state("good", "operator") : state(key.state === "valid" ? "good" : "", key.state),
      key.admin ? "" : String(key.open_tasks),
      key.admin ? "" : of(key.today.images, key.limits.images_per_day),
      key.admin ? "" : spent(key),
      limitsOf(key),
      key.admin ? "" : cell("tasks", () => [button("tasks", "Tasks", () => showOfKey(key), { "aria-label": `Tasks of ${key.name}` })]),
    ],
  }));
  if (total > data.length) rows.push({ key: "more", cells: [`and ${total - data.length} more`] });
  fill(find("keys"), rows);
}

const of = (used, limit) => (limit === null ? String(used) : `${used} of ${limit}`);

function spent({ month, limits }) {
  const most = limits.usd_per_month === null ? "" : ` of ${money(limits.usd_per_month)}`;
  const spend = month.spend_usd ? money(month.spend_usd) : "$0";
  return `${spend}${most}, ${plural(month.images, "image")}`;
}

function limitsOf({ limits }) {
  const said = [];
  if (limits.requests_per_minute !== null) said.push(`${limits.requests_per_minute} requests/min`);
  if (limits.tasks_in_flight !== null) said.push(`${limits.tasks_in_flight} in flight`);
  if (limits.models) said.push(limits.models.join(", "));
  return said.join("; ");
}

function showOfKey(key) {
  ofKey = key.id;
  const chip = find("of-key");
  chip.hidden = false;
  chip.querySelector("span").textContent = `Of ${key.name}`;
  chip.querySelector("input").checked = true;
  shown = "key";
  find("tasks-title").focus();
  look();
}

// -- one task

async function open(id) {
  find("task-problem").hidden = true;
  try {
    const task = await api.admin("GET", `tasks/${id}`);
    opened = task.id;
    showTask(task);
    if (!find("task").open) find("task").showModal();
    find("task-title").focus();
  } catch (error) {
    find("task-problem").hidden = false;
    find("task-problem").textContent = `${error.message} ${advice(error.error ?? {})}`;
  }
}

const NAMES = {
  blocked: "blocked",
  held_by: "held by",
  attempts_lost: "attempts lost",
  queue_position: "place in its queue",
};

const time = (at) => new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
const TIMES = ["submitted", "started", "ended", "deadline", "held_until", "not_before", "expires"];
const APART = ["object", "id", "timeline", "calls", "webhook", "failure", "result", "warnings"];

const words = (about) =>
  Object.entries(about)
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "object" ? `(${words(value)})` : value}`)
    .join(", ");

let drawn = ""; // what the dialog shows

function showTask(task) {
  const text = JSON.stringify(task);
  if (text === drawn) return;
  drawn = text;
  const facts = Object.entries(task).filter(([name]) => !APART.includes(name));
  const parts = [
    el("dl", {}, ...facts.flatMap(([name, value]) => [
      el("dt", {}, NAMES[name] ?? name.replaceAll("_", " ")),
      el("dd", {}, TIMES.includes(name) ? time(value) : name === "retried_as" ? taskLink(value) : String(value)),
    ])),
  ];
  const lists = {
    "What went wrong": task.failure && [words(task.failure)],
    Warnings: task.warnings,
    "Paid calls": task.calls?.map(({ sent, ...call }) => words({ ...call, sent: sent && time(sent) })),
    Result: task.result && [words({ ...task.result, images: task.result.images?.length, missing: task.result.missing?.length })],
    Webhook: task.webhook && [
      words({ host: task.webhook.host, delivery: task.webhook.delivery, next_try: task.webhook.next_try && time(task.webhook.next_try) }),
      ...task.webhook.tries.map(({ at, ...tried }) => words({ at: time(at), ...tried })),
    ],
  };
  for (const [title, items] of Object.entries(lists)) {
    if (items?.length) parts.push(el("section", {}, el("h3", {}, title), el("ul", {}, ...items.map((item) => el("li", {}, item)))));
  }
  parts.push(el("section", {}, el("h3", {}, "Timeline"), el("ol", { class: "timeline", role: "list" }, ...timeline(task))));
  find("task-title").textContent = task.id;
  find("task-body").replaceChildren(...parts);
  const row = { ...task, error: task.failure?.code, billed: task.failure?.billed };
  const actions = [];
  if (!["completed", "failed"].includes(task.status)) actions.push(cancelButton(row));
  if (task.status === "failed" && task.cancellation !== "cancelled" && !task.retried_as) actions.push(retryButton(row));
  if (task.webhook?.delivery) actions.push(button("redeliver", "Deliver the webhook again", () => redeliver(row)));
  const focused = document.activeElement?.closest("#task-actions") && document.activeElement.dataset.action;
  find("task-actions").replaceChildren(...actions);
  if (focused) (find("task-actions").querySelector(`[data-action="${focused}"]`) ?? find("task-title")).focus();
}

const taskLink = (id) => button("other", id, () => open(id), { class: "plain" });

function timeline({ submitted, timeline: entries = [] }) {
  return entries.map(({ at, event, of: other, ...about }) =>
    el("li", {},
      el("time", { title: time(at), datetime: new Date(at * 1000).toISOString() }, `+${(at - submitted).toFixed(3)} s`),
      el("span", {}, el("b", {}, event.replaceAll("_", " ")), " ", el("span", { class: "dim" }, words(about)), other && taskLink(other)),
    ),
  );
}

// -- what is done, once it is confirmed

/**
 * Ask before something is done. `again` is what has to be agreed to besides, if anything; `act` does
 * it, and what it says afterwards is shown.
 */
function confirm({ title, text, yes, again, act }) {
  find("confirm-title").textContent = title;
  find("confirm-text").textContent = text;
  find("confirm-problem").hidden = true;
  const agreed = find("confirm-again").querySelector("input");
  find("confirm-again").hidden = !again;
  find("confirm-again").querySelector("span").textContent = again ?? "";
  agreed.checked = false;
  const go = find("confirm-yes");
  go.textContent = yes;
  go.disabled = Boolean(again);
  agreed.onchange = () => (go.disabled = !agreed.checked);
  go.onclick = async () => {
    go.disabled = true;
    try {
      const said = await act();
      find("confirm").close();
      say(said, { shown: true });
      seldomAt = 0;
      look();
    } catch (error) {
      find("confirm-problem").hidden = false;
      find("confirm-problem").textContent = `${error.message} ${advice(error.error ?? {})}`.trim();
      go.disabled = false;
    }
  };
  find("confirm").showModal();
  find("confirm-no").focus();
}

const AFFECTS = {
  route: (name) => `Nothing more is bought by ${name}.`,
  provider: (name) => `Nothing more is bought from ${name}, by any of its routes.`,
  model: (name) => `Nothing more is bought of ${name}, whatever serves it.`,
};

function pause(kind, name) {
  confirm({
    title: `Pause ${name}?`,
    text: `${AFFECTS[kind](name)} Calls in flight are finished. Tasks take another route where they have one; the others wait until it is resumed, and fail at their deadline.`,
    yes: "Pause it",
    act: async () => {
      await api.admin("POST", "pause", { [kind]: name });
      return `${name} is paused`;
    },
  });
}

function resume(kind, name) {
  confirm({
    title: `Resume ${name}?`,
    text: "Calls begin again at once, and tasks that waited for it are taken up.",
    yes: "Resume it",
    act: async () => {
      await api.admin("POST", "resume", { [kind]: name });
      return `${name} is resumed`;
    },
  });
}

function cancel(task) {
  confirm({
    title: "Cancel this task?",
    text: `${task.id} fails as cancelled, and its owner, ${task.owner}, is told so. Where a provider works on it already, it is asked to stop; not all can.`,
    yes: "Cancel the task",
    act: async () => {
      const now = await api.admin("POST", `tasks/${task.id}/cancel`);
      return now.cancellation === "cancelled" ? "The task is cancelled" : "Its provider is asked to stop";
    },
  });
}

const MAY_PAY_TWICE = {
  unknown: "It may have been charged already. Buy it once more all the same.",
  yes: "It was charged already. Buy it once more all the same.",
};

function retry(task) {
  confirm({
    title: "Retry this task?",
    text: `A new task of the same request is made for ${task.owner}: it is charged to that key, within its limits, and has an id of its own. ${task.id} stays failed.`,
    yes: "Make the new task",
    again: MAY_PAY_TWICE[task.billed],
    act: async () => {
      const made = await api.admin("POST", `tasks/${task.id}/retry`, { billed: task.billed });
      if (opened) open(made.id);
      return `Retried as ${short(made.id)}`;
    },
  });
}

function redeliver(task) {
  confirm({
    title: "Deliver the webhook again?",
    text: `The end of ${task.id} is told to its receiver once more, under the same webhook-id, and with all tries.`,
    yes: "Deliver it",
    act: async () => {
      await api.admin("POST", `tasks/${task.id}/redeliver`);
      return "The webhook is on its way";
    },
  });
}

// -- the beginning

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  find("key-problem").hidden = true;
  signIn(find("key").value.trim());
});
find("sign-out").addEventListener("click", () => {
  leave();
  askForKey();
  find("key").focus();
  say("Signed out. This tab has forgotten the key.", { shown: true });
});
find("show").addEventListener("change", (event) => {
  shown = event.target.value;
  look();
});
find("unconfigured").addEventListener("change", () => seen && showRoutes());
find("look").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find("task-id").value.trim();
  if (id) open(encodeURIComponent(id));
});
for (const dialog of [find("task"), find("confirm")]) closable(dialog);
find("task").addEventListener("close", () => {
  opened = null;
  drawn = "";
});
find("confirm-no").addEventListener("click", () => find("confirm").close());
document.addEventListener("visibilitychange", look);
addEventListener("hashchange", keyOfAddress);
setInterval(tick, 1000);

if (!keyOfAddress()) {
  if (memory.key) signIn(memory.key);
  else askForKey();
}
