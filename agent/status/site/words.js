"use strict";

// What the agent says comes into the document as text and nothing else, and what is there is changed in place: focus,
// open details and the reader's place stay.

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const byId = (id) => document.getElementById(id);

// Writing

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

function style(element, name, value) {
  if (element.style[name] !== value) element.style[name] = value;
}

function show(element, isVisible) {
  if (element.hidden === isVisible) element.hidden = !isVisible;
}

function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

const rowsOf = new WeakMap();

/** Give `parent` one child for each item; `build` makes it, as {element, update}. Keys tell who is who. */
function each(parent, items, keyOf, build) {
  const before = rowsOf.get(parent) ?? new Map();
  const rows = new Map();
  rowsOf.set(parent, rows);
  for (const item of items) {
    let key = String(keyOf(item));
    while (rows.has(key)) key += "'";
    rows.set(key, before.get(key) ?? build(item));
    before.delete(key);
  }
  for (const gone of before.values()) gone.element.remove();
  let next = parent.firstElementChild;
  const updates = [...rows.values()];
  updates.forEach((row, index) => {
    if (row.element === next) next = next.nextElementSibling;
    else parent.insertBefore(row.element, next);
    row.update(items[index]);
  });
}

function texts(parent, lines, tag = "li") {
  each(parent, [...lines.entries()], ([index]) => index, () => {
    const element = make(tag);
    return {element, update: ([, line]) => put(element, line)};
  });
}

// A table stays one where its rows are stacked, on a phone.
function cell(tag, role, label, ...children) {
  const element = make(tag, "", ...children);
  element.setAttribute("role", role);
  if (role === "rowheader") element.scope = "row";
  if (label) element.dataset.label = label;
  return element;
}

function row(...cells) {
  const element = make("tr", "", ...cells);
  element.setAttribute("role", "row");
  return element;
}

function bar() {
  const fill = make("span", "fill");
  const element = make("span", "bar", fill);
  element.setAttribute("aria-hidden", "true");  // the number stands beside it
  return {
    element,
    set(share, tone = "") {
      style(fill, "width", `${(Math.min(1, Math.max(0, share)) * 100).toFixed(1)}%`);
      mark(element, "tone", tone);
    },
  };
}

// Wording

const two = (number) => String(number).padStart(2, "0");
const counted = (count) => count.toLocaleString("en");
const plural = (count, one, many = `${one}s`) => `${counted(count)} ${count === 1 ? one : many}`;
const listed = (items) => items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
const shortened = (serial) => serial.length > 16 ? `${serial.slice(0, 8)}…${serial.slice(-4)}` : serial;

function span(milliseconds) {
  const ms = Math.max(0, milliseconds);
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ${two(Math.floor(ms / SECOND) % 60)} s`;
  if (ms < DAY) return `${Math.floor(ms / HOUR)} h ${two(Math.floor(ms / MINUTE) % 60)} min`;
  if (ms < 10 * DAY) return `${Math.floor(ms / DAY)} d ${Math.floor(ms / HOUR) % 24} h`;
  return `${Math.floor(ms / DAY)} d`;
}

function brief(seconds) {
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : span(seconds * 1000);
}

/** A moment as people write it: the time alone where it is today. */
function moment(iso, now) {
  const whole = new Date(iso).toISOString();
  const [day, time] = [whole.slice(0, 10), whole.slice(11, 19)];
  return day === new Date(now).toISOString().slice(0, 10) ? `${time}Z` : `${day} ${time.slice(0, 5)}Z`;
}

const WAITS = {
  refused_files: ["warn", "A file on disk is refused", "its last good version stays in use"],
  refused_configuration: ["warn", "The configuration on disk is refused", "the last good one stays in use"],
  refused_program: ["warn", "The program on disk is refused", "the last good one stays in use"],
  refused_by_proxy: ["warn", "The proxy refuses the files on disk", "the last good ones stay in use"],
  retry: ["warn", "The last attempt failed; the next one waits for its back-off."],
  drains: ["note", "The maximum number of epochs drain; the next rotation waits for one of them."],
  memory: ["warn", "There is too little memory for another epoch; the rotation waits."],
  paused: ["note", "Rotations are paused."],
  window: ["note", "A rotation waits for its window."],
  jitter: ["note", "A rotation waits for this instance's turn in the fleet."],
};
const TONES = ["good", "note", "warn", "bad"];

const REFUSALS = {
  missing: "a file is missing", unreadable: "a file cannot be read", empty: "a file is empty",
  incomplete: "a file is incomplete", unparsable: "it cannot be read as PEM",
  mismatch: "certificate and key do not belong together", expired: "the certificate has expired",
  not_yet_valid: "the certificate is not valid yet", lost_own_ca: "the bundle lacks the authority of what serves",
  tied: "it is shared with files that are refused", proxy: "the proxy refuses it",
};

/** Which files are refused, and why, in a sentence; the whole message stands once, in its card. */
function refusal(view) {
  const names = [...new Set(view.refused.filter((item) => item.set).map((item) => item.set))];
  const meanwhile = view.epoch === null ? "" : `; the last good ${names.length > 1 ? "ones serve" : "one serves"}`;
  if (names.length > 1) return `The files on disk of ${counted(names.length)} certificates are refused${meanwhile}.`;
  const why = view.refused.find((item) => item.set)?.reason;
  return `The files on disk of ${names[0]} are refused: ${REFUSALS[why] ?? why.replaceAll("_", " ")}${meanwhile}.`;
}

function waiting(view, now) {
  const until = view.paused_until ? `Rotations are paused until ${moment(view.paused_until, now)}.` : "";
  const ofSets = view.refused.some((item) => item.set);
  const found = view.blocked.map((word) => {
    if (word === "paused" && until) return ["note", until];
    if (word === "refused_files" && ofSets) return ["warn", refusal(view)];
    const [tone, text, meanwhile] = WAITS[word] ?? ["warn", `A rotation waits: ${word.replaceAll("_", " ")}.`];
    if (!meanwhile) return [tone, text];
    return [tone, view.epoch === null ? `${text}.` : `${text}; ${meanwhile}.`];
  });
  if (until && !view.blocked.includes("paused")) found.push(["note", until]);
  if (view.refused.length && !view.blocked.some((word) => word.startsWith("refused")))
    found.push(["warn", `${plural(view.refused.length, "file")} on disk ${view.refused.length === 1 ? "is" : "are"} refused.`]);
  if (view.out_of_sync_since && found.length)
    found.push(["note", `The files on disk have not been served since ${moment(view.out_of_sync_since, now)}.`]);
  return found;
}

/** How near the end of a certificate is, as agent/core/expiry.py has it: far, soon, urgent or ended. */
function expiry(facts, now) {
  const [from, to] = [Date.parse(facts.not_before), Date.parse(facts.not_after)];
  if (to < now) return "ended";
  if (to - now < Math.min(2 * DAY, (to - from) / 20)) return "urgent";
  return to - now < Math.min(14 * DAY, (to - from) / 5) ? "soon" : "far";
}

const EXPIRY_TONES = {far: "", soon: "warn", urgent: "bad", ended: "bad"};

function life(facts, now) {
  const [from, to] = [Date.parse(facts.not_before), Date.parse(facts.not_after)];
  const near = expiry(facts, now);
  return {
    share: (to - now) / Math.max(1, to - from),
    tone: EXPIRY_TONES[near],
    left: to < now ? `ended ${span(now - to)} ago` : `${span(to - now)} left${EXPIRY_TONES[near] && ` (${near})`}`,
  };
}

const soonest = (sets) => sets.reduce((one, other) => other.served.not_after < one.served.not_after ? other : one);

/** A sentence about the served certificates that need renewal: with a moment, since a clock is no news. */
function ending(view, now) {
  const near = view.certificates.filter((set) => set.served && expiry(set.served, now) !== "far");
  if (!near.length) return [];
  const tones = near.map((set) => EXPIRY_TONES[expiry(set.served, now)]);
  const {name, served} = soonest(near);
  const ends = `${expiry(served, now) === "ended" ? "ended" : "ends"} at ${moment(served.not_after, now)}`;
  const text = near.length === 1 ? `The certificate of ${name} needs renewal: it ${ends}.`
    : `${near.length} certificates need renewal; that of ${name} ${ends}.`;
  return [[tones.includes("bad") ? "bad" : "warn", text]];
}

/** When the first served certificate ends, in words. */
function outlook(view, now) {
  const valid = view.certificates.filter((set) => set.served && expiry(set.served, now) !== "ended");
  if (!valid.length) return "";
  const {name, served} = soonest(valid);
  const which = valid.length > 1 ? `The next certificate to end is ${name}:` : "The certificate ends";
  return `${which} in ${span(Date.parse(served.not_after) - now)} (${moment(served.not_after, now)}).`;
}

function standing(view) {
  const named = (state) => view.epochs.filter((epoch) => epoch.state === state).map((epoch) => epoch.number);
  const [tried, drained] = [named("candidate"), named("draining")];
  const parts = [view.epoch === null ? "no epoch serves" : `epoch ${view.epoch} serves`];
  if (tried.length) parts.push(`${listed(tried)} is being tried`);
  if (drained.length) parts.push(`${listed(drained)} ${drained.length === 1 ? "drains" : "drain"}`);
  const sentence = parts.join(", ");
  return `${sentence[0].toUpperCase()}${sentence.slice(1)}.`;
}

function verdict(view, now) {
  const troubles = [...waiting(view, now), ...ending(view, now)];
  const crashed = crashes(view, now);
  if (crashed.length > 1)
    troubles.unshift(["bad", `${crashed.length} crashes in the last hour, the last one: epoch ${crashed[0].epoch} ${crash(crashed[0].end)}.`]);
  if (view.hung) troubles.unshift(["bad", "The serving epoch hangs: it accepts no connections."]);
  if (!view.ready && view.epochs.length) troubles.unshift(["bad", standing(view)]);
  const worst = Math.max(0, ...troubles.map(([tone]) => TONES.indexOf(tone)));
  return {
    tone: view.ready ? TONES[worst] : "bad",
    headline: view.ready ? `Ready. ${standing(view)}` : `Not ready: ${view.reason || "no reason given"}.`,
    troubles: troubles.map(([, text]) => text),
  };
}

// Attempts

const OUTCOMES = {
  running: "note", serving: "good", succeeded: "good", crashed: "bad", refused: "bad", failed: "bad", superseded: "", short: "warn",
};

const isCrash = (end) => Boolean(end) && end.cause !== "asked" && end.cause !== "killed";

/** The outcome as it is shown: past epochs succeeded or crashed, only one serves. */
function result(attempt, serving) {
  if (attempt.outcome === "dropped") return "superseded";
  if (attempt.outcome !== "serving") return attempt.outcome;
  if (isCrash(attempt.end)) return "crashed";
  return attempt.epoch === serving ? "serving" : "succeeded";
}

/** How a crashed epoch ended. */
function crash(end) {
  return `${end.cause === "memory" ? "ran out of memory" : end.text} after ${brief(end.served)}`;
}

/** The attempts whose epoch crashed within the last hour, newest first. */
function crashes(view, now) {
  const recent = view.rotations.filter((each) => isCrash(each.end) && now - Date.parse(each.end.at) < 3600e3);
  return recent.sort((one, other) => Date.parse(other.end.at) - Date.parse(one.end.at));
}
const toHandover = (attempt) => attempt.phases.filter((phase) => phase.name !== "drain");
const total = (phases) => phases.reduce((sum, phase) => sum + phase.seconds, 0);

/** What an attempt lost, in words; empty if nobody lost anything. */
function losses({evidence: found, end}) {
  const lines = [];
  if (isCrash(end)) lines.push("clients in flight were cut by the crash");
  if (!found) return lines;
  if (found.overflows) lines.push(plural(found.overflows, "listen overflow"));
  if (found.drops) lines.push(plural(found.drops, "drop"));
  if (found.cut) lines.push(`${plural(found.cut, "connection")} cut at the drain deadline`);
  if (found.cut_at_end) lines.push(`${plural(found.cut_at_end, "connection")} cut at its end`);
  for (const seen of found.seen.filter((each) => !each.matches))
    lines.push(`${seen.address} shows ${seen.serial ? shortened(seen.serial) : "nothing"}: ${seen.error || "not the one expected"}`);
  return lines;
}

/** All that was measured during an attempt. */
function measured(attempt) {
  const {evidence: found} = attempt;
  if (!found) return [];
  const lines = [`${plural(found.queued, "client")} waited at the commit`];
  if (found.overflows === null || found.drops === null) lines.push("the kernel does not count overflows");
  else lines.push(`${plural(found.overflows, "listen overflow")}, ${plural(found.drops, "drop")}`);
  for (const seen of found.seen.filter((each) => each.matches))
    lines.push(`${shortened(seen.serial)} seen at ${seen.address}`);
  if (found.cut !== null) lines.push(`${plural(found.cut, "connection")} cut at the drain deadline`);
  return lines;
}

/** Seconds from the change on disk until it served, or null. */
function reaction(attempt) {
  if (!attempt.changed_at || attempt.outcome !== "serving") return null;
  const until = attempt.phases.filter((phase) => phase.name !== "handover" && phase.name !== "drain");
  return (Date.parse(attempt.began_at) - Date.parse(attempt.changed_at)) / SECOND + total(until);
}
