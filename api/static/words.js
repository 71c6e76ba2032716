// What numbers and codes are called when one speaks to people.

export const isFinal = (task) => task.status === "completed" || task.status === "failed";

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

export function money(dollars) {
  if (dollars === null || dollars === undefined) return "price unknown";
  if (dollars === 0) return "free";
  return `$${dollars.toFixed(dollars < 0.1 ? 3 : 2).replace(/(\.\d\d)0$/, "$1")}`;
}

export function duration(seconds) {
  const units = [
    [90, 1, "s"],
    [5400, 60, "min"],
    [129600, 3600, "h"],
    [Infinity, 86400, "days"],
  ];
  const [, length, name] = units.find(([most]) => seconds < most);
  return seconds < 1 ? "under 1\u00a0s" : `${Math.round(seconds / length)}\u00a0${name}`;
}

export function ago(unixSeconds) {
  const seconds = Date.now() / 1000 - unixSeconds;
  return seconds < 10 ? "just now" : `${duration(seconds)} ago`;
}

export const size = (text) => text.replace("x", " × ");

const BLOCKED = {
  rate_limited: "The provider asked us to wait a little.",
  failing: "The provider keeps failing; it is tried again soon.",
  full: "The provider is as busy as it may be; waiting for a place.",
  no_credit: "The provider's account is out of credit.",
  bad_key: "The provider refuses this server's key.",
  not_served: "The provider no longer has this model.",
  paused: "Paused by the operator of this server.",
};

const BILLED = {
  no: "Nothing was charged.",
  yes: "It was charged all the same.",
  unknown: "Whether it was charged is not known.",
};

/** What an open task is doing, in one sentence. */
export function doing(task) {
  const left = task.eta_seconds === undefined ? "" : ` About ${duration(task.eta_seconds)} left.`;
  if (task.cancellation_status === "requested") return "Asking the provider to stop…";
  if (task.blocked_reason) return (BLOCKED[task.blocked_reason] ?? "Waiting.") + left;
  if (task.status === "processing") return (task.progress ? `Developing, ${task.progress} %.` : "Developing…") + left;
  if (task.queue_position === 1) return `Next in line.${left}`;
  if (task.queue_position) return `Number ${task.queue_position} in line.${left}`;
  return `Waiting for a worker.${left}`;
}

/** Why a task came to nothing, and what it cost. */
export function failure(task) {
  const billed = BILLED[task.error_detail?.billed] ?? "";
  if (task.cancelled) return { title: "Cancelled", text: "", billed };
  return { title: "No picture", text: task.error ?? "", billed };
}

export function missing(task) {
  const lost = task.missing ?? [];
  if (!lost.length) return "";
  const billed = BILLED[lost[0].billed] ?? "";
  return `${plural(lost.length, "picture")} could not be had: ${lost[0].message} ${billed}`;
}

/** What to say of an error besides its message. */
export function advice(error) {
  const parts = [];
  if (error.hint) parts.push(error.hint);
  if (error.retry_after) parts.push(`Try again in ${duration(error.retry_after)}.`);
  if (error.resets_in) parts.push(`It starts again from zero in ${duration(error.resets_in)}.`);
  return parts.join(" ");
}

/** The values that the server proposes instead of a wrong one, the likeliest first. */
export function proposals(error) {
  const values = [error.did_you_mean, ...(error.suggestions ?? []), ...(error.alternatives ?? [])];
  return [...new Set(values.filter(Boolean))].slice(0, 4);
}
