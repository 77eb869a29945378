"use strict";

// What the agent says comes into the document as text and nothing else, and what is there is changed in place: focus,
// open details and the reader's place stay.

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const ROWS_LIMIT = 200;
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
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
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

function waiting(view, now) {
  const until = view.paused_until ? `Rotations are paused until ${moment(view.paused_until, now)}.` : "";
  const found = view.blocked.map((word) => {
    if (word === "paused" && until) return ["note", until];
    let [tone, text, meanwhile] = WAITS[word] ?? ["warn", `A rotation waits: ${word.replaceAll("_", " ")}.`];
    if (word === "refused_files" && view.refused.length > 1)
      [text, meanwhile] = [`${view.refused.length} files on disk are refused`, "their last good versions stay in use"];
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

function life(facts, now) {
  const [from, to] = [Date.parse(facts.not_before), Date.parse(facts.not_after)];
  const share = (to - now) / Math.max(1, to - from);
  const tone = share <= 0 ? "bad" : share < 0.1 ? "warn" : "";
  const left = share <= 0 ? `ended ${span(now - to)} ago` : `${span(to - now)} of ${span(to - from)} left`;
  return {share, tone, left};
}

function ending(view, now) {
  return view.certificates.filter((set) => set.served).flatMap((set) => {
    const {tone} = life(set.served, now);
    const at = moment(set.served.not_after, now);
    if (tone === "bad") return [["bad", `The certificate served for ${set.name} ended at ${at}.`]];
    return tone ? [["warn", `The certificate served for ${set.name} ends soon: ${at}.`]] : [];
  });
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

// The parts of the page

function refusedCard() {
  const [path, reason, message] = [make("code"), make("span", "badge"), make("p")];
  mark(reason, "tone", "bad");
  const element = make("li", "card", make("h3", "", path, " ", reason), message);
  return {
    element,
    update(item) {
      put(path, item.path);
      put(reason, item.reason.replaceAll("_", " ") + (item.set ? ` · ${item.set}` : ""));
      put(message, item.message);
    },
  };
}

const STEPS = [1, 2, 5, 10, 15, 30].map((n) => n * MINUTE)
  .concat([1, 2, 6, 12].map((n) => n * HOUR), [1, 2, 7, 14, 30, 90, 365].map((n) => n * DAY));
const rounded = (ms) => STEPS.find((step) => step >= ms) ?? Math.ceil(ms / (365 * DAY)) * 365 * DAY;

/** What the time line covers: `past` and `future` milliseconds to the sides of now. */
function horizon(epochs, now) {
  const pasts = epochs.map((epoch) => now - Date.parse(epoch.since));
  const futures = epochs.filter((epoch) => epoch.deadline).map((epoch) => Date.parse(epoch.deadline) - now);
  const future = futures.length ? rounded(Math.max(...futures)) : 0;
  const past = rounded(Math.max(MINUTE, future / 2, ...pasts));
  return {past, future: Math.max(future, past / 12), hasFuture: future > 0};
}

function track() {
  const parts = Object.fromEntries(["before", "present", "ahead", "now"].map((name) => [name, make("span", name)]));
  const element = make("div", "track", ...Object.values(parts));
  element.setAttribute("aria-hidden", "true");
  return {
    element,
    set(epoch, now, {past, future}) {
      const at = (iso) => Math.min(1, Math.max(0, (Date.parse(iso) - now + past) / (past + future)));
      const here = past / (past + future);
      const place = (part, from, to) => {
        style(part, "left", `${(from * 100).toFixed(2)}%`);
        style(part, "width", `${(Math.max(0, to - from) * 100).toFixed(2)}%`);
      };
      place(parts.before, at(epoch.started_at), at(epoch.since));
      place(parts.present, at(epoch.since), here);
      place(parts.ahead, here, epoch.deadline ? at(epoch.deadline) : here);
      style(parts.now, "left", `${(here * 100).toFixed(2)}%`);
    },
  };
}

const STAGES = {starting: "starting", waiting: "at the gate", opening: "opening its gate", leaving: "terminating"};

function epochFacts(epoch, now) {
  const facts = [`since ${moment(epoch.since, now)}, ${span(now - Date.parse(epoch.since))}`];
  if (epoch.state === "candidate" && epoch.deadline) facts.push(`dropped in ${span(Date.parse(epoch.deadline) - now)}`);
  if (epoch.awaits) facts.push(epoch.awaits);
  facts.push(`revision ${epoch.revision.slice(0, 12)}`);
  if (epoch.serials.length) facts.push(`certificate ${epoch.serials.map(shortened).join(", ")}`);
  if (epoch.memory !== null) facts.push(`${Math.round(epoch.memory / (1 << 20))} MiB`);
  if (epoch.pid !== null) facts.push(`pid ${epoch.pid}`);
  return facts;
}

function drainPart() {
  const [left, cut, gauge] = [make("span"), make("span"), bar()];
  const element = make("p", "drain", left, gauge.element, cut);
  return {
    element,
    update(epoch, now) {
      const {connections, connections_at_first: first} = epoch;
      show(element, epoch.state === "draining");
      const most = Math.max(first ?? 0, connections ?? 0);
      const many = first === null ? plural(connections ?? 0, "connection") : `${connections} of ${plural(most, "connection")}`;
      put(left, connections === null ? "connections unknown" : `${many} left`);
      gauge.set(connections === null ? 1 : connections / Math.max(1, most));
      const cutAt = epoch.deadline && Date.parse(epoch.deadline);
      put(cut, cutAt ? `cut in ${span(cutAt - now)}, at ${moment(epoch.deadline, now)}` : "");
    },
  };
}

function epochRow() {
  const [name, badge, facts] = [make("span"), make("span", "badge"), make("ul", "facts")];
  const [line, drain] = [track(), drainPart()];
  const element = make("li", "epoch", make("h3", "", name, " ", badge), line.element, drain.element, facts);
  return {
    element,
    update({epoch, now, scale}) {
      mark(element, "state", epoch.state);
      put(name, `Epoch ${epoch.number}`);
      put(badge, epoch.state + (STAGES[epoch.stage] ? `, ${STAGES[epoch.stage]}` : ""));
      line.set(epoch, now, scale);
      drain.update(epoch, now);
      texts(facts, epochFacts(epoch, now));
    },
  };
}

function drawEpochs(view, now) {
  const scale = horizon(view.epochs, now);
  const newestFirst = [...view.epochs].reverse().map((epoch) => ({epoch, now, scale}));
  each(byId("epochs"), newestFirst, ({epoch}) => epoch.number, epochRow);
  show(byId("epochs-none"), !view.epochs.length);
  show(byId("axis"), view.epochs.length > 0);
  put(byId("axis-from"), `${rough(scale.past)} ago`);
  put(byId("axis-to"), scale.hasFuture ? `in ${rough(scale.future)}` : "");
  style(byId("axis-now"), "left", `${(scale.past / (scale.past + scale.future) * 100).toFixed(2)}%`);
}

function rough(ms) {
  if (ms < HOUR) return `${Math.round(ms / MINUTE)} min`;
  return ms < DAY ? `${Math.round(ms / HOUR)} h` : `${Math.round(ms / DAY)} d`;
}

/** One leaf, or one bundle, with its remaining life. */
function lifePart() {
  const [name, left, gauge, until] = [make("span", "serial"), make("span"), bar(), make("span", "until")];
  const element = make("div", "life", name, gauge.element, left, until);
  return {
    element,
    set(label, facts, now, isUsed = true) {
      const {share, tone, left: words} = life(facts, now);
      put(name, label);
      put(left, words);
      mark(left, "tone", tone);
      put(until, `until ${moment(facts.not_after, now)}`);
      gauge.set(share, isUsed ? tone : "idle");
    },
  };
}

function bundleLine({bundle, now}) {
  const first = bundle.not_after ? `, the first ends ${moment(bundle.not_after, now)}` : "";
  return `${bundle.path}: ${plural(bundle.certificates, "authority", "authorities")}${first}`;
}

function details(set, now) {
  const leaf = set.served ?? set.disk;
  const ofLeaf = leaf ? [
    `subject ${leaf.subject}`, ...leaf.names, ...(leaf.spiffe_id ? [`SPIFFE ${leaf.spiffe_id}`] : []),
    `issuer ${leaf.issuer}`, `serial ${leaf.serial}`, `key ${leaf.key_type}`,
    `valid ${moment(leaf.not_before, now)} – ${moment(leaf.not_after, now)}`, `SHA-256 ${leaf.fingerprint}`,
  ] : [];
  const files = [["chain", set.chain], ["key", set.key]].filter(([, path]) => path).map((pair) => pair.join(" "));
  return [...ofLeaf, ...files, ...set.bundles.map((bundle) => bundleLine({bundle, now}))];
}

function onDisk(set) {
  if (set.refused) return ["bad", "refused"];
  if (!set.disk && set.chain) return ["warn", "not readable"];
  if (!set.in_sync) return ["note", "not served yet"];
  return ["good", set.served ? "served" : "used"];
}

function certificateRow() {
  const [name, facts, summary] = [make("span", "set"), make("ul", "facts"), make("summary", "", "details")];
  const [served, none, disk, badge] = [lifePart(), make("p", "none"), lifePart(), make("span", "badge")];
  const why = make("p", "why");
  const element = row(
    cell("th", "rowheader", "", name, make("details", "", summary, facts)),
    cell("td", "cell", "Served", served.element, none),
    cell("td", "cell", "On disk", badge, disk.element, why),
  );
  return {
    element,
    update({set, now}) {
      put(name, set.name);
      summary.setAttribute("aria-label", `details of ${set.name}`);
      texts(facts, details(set, now));
      show(served.element, Boolean(set.served));
      show(none, !set.served);
      put(none, set.chain ? "nothing" : set.bundles.map((bundle) => bundleLine({bundle, now})).join("\n"));
      if (set.served) served.set(`serial ${shortened(set.served.serial)}`, set.served, now);
      const [tone, words] = onDisk(set);
      mark(badge, "tone", tone);
      put(badge, words);
      show(disk.element, Boolean(set.disk) && !(set.disk.serial === set.served?.serial && set.in_sync));
      if (set.disk) disk.set(`serial ${shortened(set.disk.serial)}`, set.disk, now, !set.refused);
      show(why, Boolean(set.refused));
      put(why, set.refused);
    },
  };
}

function drawCertificates(view, now) {
  const sets = view.certificates;
  const troubled = (set) => set.refused || !set.in_sync ? 0 : 1;
  const shown = sets.length > ROWS_LIMIT
    ? [...sets].sort((a, b) => troubled(a) - troubled(b)).slice(0, ROWS_LIMIT) : sets;
  each(byId("certificates"), shown.map((set) => ({set, now})), ({set}) => set.name, certificateRow);
  show(byId("certificates-table"), sets.length > 0);
  show(byId("certificates-none"), !sets.length);
  show(byId("certificates-more"), sets.length > shown.length);
  put(byId("certificates-more"), `${sets.length - shown.length} more are in status as JSON.`);
}

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

function segment() {
  const element = make("span");
  return {
    element,
    update(phase) {
      mark(element, "phase", phase.name);
      style(element, "flexGrow", (phase.seconds * 1000 + 1).toFixed(0));  // below one in all they would not fill it
    },
  };
}

function phaseLine() {
  const [swatch, text] = [make("span", "swatch"), make("span")];
  const element = make("li", "", swatch, text);
  swatch.setAttribute("aria-hidden", "true");
  return {
    element,
    update(phase) {
      mark(swatch, "phase", phase.name);
      put(text, `${phase.name} ${brief(phase.seconds)}`);
    },
  };
}

function evidence(attempt) {
  const {evidence: found} = attempt;
  if (!found) return [attempt.outcome === "running" ? "not yet" : "none"];
  const lines = [`${plural(found.queued, "client")} waited at the commit`];
  if (found.overflows === null || found.drops === null) lines.push("the kernel does not count overflows");
  else lines.push(`${plural(found.overflows, "listen overflow")}, ${plural(found.drops, "drop")}`);
  for (const seen of found.seen) {
    const serial = seen.serial ? shortened(seen.serial) : "nothing";
    const judged = seen.matches ? "" : `: ${seen.error || "not the one expected"}`;
    lines.push(`${serial} seen at ${seen.address}${judged}`);
  }
  if (found.cut !== null) lines.push(`${plural(found.cut, "connection")} cut at the drain deadline`);
  return lines;
}

function isProven({evidence: found}) {
  return !found || !(found.overflows || found.drops || found.cut || found.seen.some((seen) => !seen.matches));
}

function change({set, before, after}) {
  return `${set}: ${before ? shortened(before) : "none"} → ${after ? shortened(after) : "none"}`;
}

function rotationRow() {
  const [name, outcome, about] = [make("span"), make("span", "badge"), make("ul", "facts")];
  const [reason, stack, sum, legend] = [make("p", "why"), make("span", "stack"), make("strong"), make("ul", "phases")];
  const [proof, lost] = [make("ul", "facts proof"), make("span", "badge")];
  stack.setAttribute("aria-hidden", "true");
  mark(lost, "tone", "warn");
  put(lost, "check this");
  const element = row(
    cell("th", "rowheader", "", make("span", "attempt", name, " ", outcome), about, reason),
    cell("td", "cell", "Phases", make("span", "measure", stack, " ", sum), legend),
    cell("td", "cell", "Evidence", lost, proof),
  );
  return {
    element,
    update({attempt, now, longest, serving}) {
      put(name, `Epoch ${attempt.epoch}`);
      const shown = result(attempt, serving);
      put(outcome, shown);
      mark(outcome, "tone", OUTCOMES[shown] ?? "");
      const began = Date.parse(attempt.began_at);
      const since = `${moment(attempt.began_at, now)}, ${span(now - began)} ago`;
      texts(about, [`${attempt.trigger}, ${since}`, ...attempt.changes.map(change)]);
      const why = isCrash(attempt.end) ? `It ${crash(attempt.end)}.` : attempt.reason;
      show(reason, Boolean(why));
      put(reason, why);
      const phases = toHandover(attempt);
      each(stack, phases, (phase) => phase.name, segment);
      style(stack, "width", `${(total(phases) / longest * 100).toFixed(1)}%`);
      put(sum, phases.length ? brief(total(phases)) : "");
      each(legend, attempt.phases, (phase) => phase.name, phaseLine);
      texts(proof, evidence(attempt));
      show(lost, !isProven(attempt));
    },
  };
}

function drawRotations(view, now) {
  const longest = Math.max(0.001, ...view.rotations.map((attempt) => total(toHandover(attempt))));
  const items = view.rotations.slice(0, ROWS_LIMIT).map((attempt) => ({attempt, now, longest, serving: view.epoch}));
  each(byId("rotations"), items, ({attempt}) => `${attempt.epoch} ${attempt.began_at}`, rotationRow);
  show(byId("rotations-table"), items.length > 0);
  show(byId("rotations-none"), !items.length);
}

const peaks = new Map();

function listenerRow() {
  const [address, workers, queue, peak, gauge] = [make("code"), make("span"), make("span"), make("span"), bar()];
  const element = row(
    cell("th", "rowheader", "", address),
    cell("td", "cell", "Sockets", workers),
    cell("td", "cell", "Waiting now", queue, gauge.element),
    cell("td", "cell", "Most seen", peak),
  );
  return {
    element,
    update(listener) {
      const most = Math.max(peaks.get(listener.address) ?? 0, listener.queue ?? 0);
      peaks.set(listener.address, most);
      put(address, listener.address);
      put(workers, String(listener.workers));
      put(queue, listener.queue === null ? "unknown" : String(listener.queue));
      put(peak, listener.queue === null ? "–" : String(most));
      show(gauge.element, listener.queue !== null);
      gauge.set((listener.queue ?? 0) / Math.max(16, most), "note");
    },
  };
}

function drawListeners(view) {
  each(byId("listeners"), view.listeners.slice(0, ROWS_LIMIT), (listener) => listener.address, listenerRow);
  show(byId("listeners-table"), view.listeners.length > 0);
  show(byId("listeners-none"), !view.listeners.length);
}

function drawVerdict(view, now) {
  const {tone, headline, troubles} = verdict(view, now);
  const isLost = contact.word === "lost";
  const seen = `Connection lost, last seen ${moment(view.at, now)}.`;
  mark(document.body, "tone", isLost ? "lost" : tone);
  put(byId("headline"), isLost ? seen : headline);
  texts(byId("troubles"), isLost ? [`It was: ${headline}`, ...troubles] : troubles);
  document.title = `${isLost ? "Connection lost" : view.ready ? "Ready" : "Not ready"} · proxy agent`;
  put(byId("identity"), [
    view.version, `pid ${view.pid}`, `up ${span(now - Date.parse(view.started_at))}`,
    view.watch === "inotify" ? "files watched by inotify" : `files watched by ${view.watch}`,
  ].join(" · "));
}

function draw(view, now) {
  const focused = document.activeElement;
  drawVerdict(view, now);
  each(byId("refused"), view.refused.slice(0, ROWS_LIMIT), (item) => `${item.path} ${item.reason}`, refusedCard);
  show(byId("refused-section"), view.refused.length > 0);
  drawEpochs(view, now);
  drawCertificates(view, now);
  drawRotations(view, now);
  drawListeners(view);
  if (focused !== document.activeElement && focused.isConnected) focused.focus({preventScroll: true});
}

// The connection: events while they come; /status, asked again and again, where they do not come through.

const SILENCE = 6 * SECOND;  // the agent says something every two
const RETRY_FIRST = 1 * SECOND, RETRY_LAST = 8 * SECOND;
const HIDDEN_LIMIT = 60 * SECOND;
const contact = {word: "", source: null, view: null, heardAt: performance.now(), retry: RETRY_FIRST, hiding: 0};

/** The agent's clock, which stands still while nothing is heard. */
function agentTime() {
  const passed = contact.word === "lost" ? 0 : performance.now() - contact.heardAt;
  return Date.parse(contact.view.at) + passed;
}

function heard(view, word) {
  Object.assign(contact, {word, view, heardAt: performance.now()});
  refresh();
}

function refresh() {
  if (contact.view) draw(contact.view, agentTime());
  else if (contact.word === "lost") put(byId("headline"), "The agent does not answer; retrying.");
  const ago = span(performance.now() - contact.heardAt);
  const words = {live: "live", asked: "not live, polling", lost: `no answer for ${ago}, retrying`};
  put(byId("contact"), words[contact.word] ?? "connecting");
  mark(byId("contact"), "word", contact.word);
}

function connect() {
  if (contact.source || document.hidden) return;
  const source = contact.source = new EventSource("events");
  contact.openedAt = performance.now();
  source.onmessage = (event) => {
    contact.retry = RETRY_FIRST;
    heard(JSON.parse(event.data), "live");
  };
  source.onerror = lose;
}

function disconnect() {
  contact.source?.close();
  contact.source = null;
}

async function lose() {
  disconnect();
  setTimeout(connect, contact.retry);
  contact.retry = Math.min(RETRY_LAST, contact.retry * 2);
  try {
    const answer = await fetch("status", {cache: "no-store", signal: AbortSignal.timeout(4 * SECOND)});
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const view = await answer.json();
    if (contact.word !== "live" || !contact.source) heard(view, "asked");
  } catch {
    if (contact.source && contact.word === "live") return;  // it is back meanwhile
    contact.word = "lost";
    refresh();
  }
}

function tick() {
  const since = Math.max(contact.heardAt, contact.openedAt ?? 0);
  if (contact.source && performance.now() - since > SILENCE) lose();
  else refresh();
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(contact.hiding);
  if (document.hidden) contact.hiding = setTimeout(disconnect, HIDDEN_LIMIT);  // a forgotten page costs nothing
  else connect();
});
for (const table of document.querySelectorAll("table")) {
  table.setAttribute("role", "table");
  table.querySelectorAll("thead, tbody").forEach((group) => group.setAttribute("role", "rowgroup"));
  table.querySelectorAll("thead tr").forEach((line) => line.setAttribute("role", "row"));
  table.querySelectorAll("thead th").forEach((head) => head.setAttribute("role", "columnheader"));
}
connect();
setInterval(tick, SECOND);
