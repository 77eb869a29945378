"use strict";

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
  if (set.served && set.disk && set.disk.serial !== set.served.serial)
    ofLeaf.push(`on disk: serial ${set.disk.serial}, until ${moment(set.disk.not_after, now)}`);
  const files = [["chain", set.chain], ["key", set.key]].filter(([, path]) => path).map((pair) => pair.join(" "));
  return [...ofLeaf, ...files, ...set.bundles.map((bundle) => bundleLine({bundle, now}))];
}

function onDisk(set) {
  if (set.refused) return ["bad", "refused"];
  if (!set.disk && set.chain) return ["warn", "not readable"];
  if (!set.in_sync) return ["note", "not served yet"];
  return ["good", set.served ? "served" : "used"];
}

const RANK_OF_EXPIRY = {ended: 0, urgent: 1, soon: 2, far: 3};

/** Certificates by urgency, as agent status lists them. */
function byUrgency(sets, now) {
  const key = (set) => {
    const facts = set.served ?? set.disk;
    return [set.in_sync ? 1 : 0, facts ? RANK_OF_EXPIRY[expiry(facts, now)] : 4, facts?.not_after ?? "", set.name];
  };
  const keyed = sets.map((set) => [key(set), set]);
  keyed.sort(([one], [other]) => {
    const at = one.findIndex((value, index) => value !== other[index]);
    return at < 0 ? 0 : one[at] < other[at] ? -1 : 1;
  });
  return keyed.map(([, set]) => set);
}

function matches(set, words) {
  const of = (leaf) => leaf ? [leaf.subject, ...leaf.names, leaf.issuer, leaf.serial, leaf.key_type] : [];
  const text = [set.name, set.chain, onDisk(set)[1], ...of(set.served), ...of(set.disk)].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

const ALIKE = 4;  // so many or more alike are one row, which opens
const FEW = 8;  // so few are never put together
const PAGE = 50;  // rows that are shown at a time
const choices = {filter: "", open: new Set(), limits: new Map()};

/** The rows of the table: certificates, and groups of those that are alike. */
function certificateItems(view, now) {
  const words = choices.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const sets = byUrgency(words.length ? view.certificates.filter((set) => matches(set, words)) : view.certificates, now);
  const single = (set) => ({set, now, key: `set ${set.name}`});
  if (sets.length <= FEW || words.length) return sets.map(single);
  const kinds = new Map();
  for (const set of sets) {
    const near = set.served ? expiry(set.served, now) : "";
    const kind = JSON.stringify([onDisk(set)[1], near, set.served?.issuer ?? ""]);
    kinds.set(kind, [...kinds.get(kind) ?? [], set]);
  }
  return [...kinds].flatMap(([kind, alike]) => {
    if (alike.length < ALIKE) return alike.map(single);
    const group = {alike, now, key: `kind ${kind}`, kind};
    return choices.open.has(kind) ? [group, ...alike.map(single)] : [group];
  });
}

/** What is left of a certificate: a bar and words. */
function lifePart() {
  const [left, gauge] = [make("span", "left"), bar()];
  const element = make("div", "life", gauge.element, left);
  return {
    element,
    set(facts, now) {
      const {share, tone, left: words} = life(facts, now);
      put(left, words);
      mark(left, "tone", tone);
      gauge.set(share, tone);
    },
  };
}

function certificateRow() {
  const [name, facts, summary] = [make("span", "set"), make("ul", "facts"), make("summary", "", "details")];
  const [served, none, badge] = [lifePart(), make("p", "none"), make("span", "badge")];
  const element = row(
    cell("th", "rowheader", "", make("div", "head", name, make("details", "", summary, facts))),
    cell("td", "cell", "Served", served.element, none),
    cell("td", "cell", "On disk", badge),
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
      if (set.served) served.set(set.served, now);
      const [tone, words] = onDisk(set);
      mark(badge, "tone", tone);
      put(badge, words);
    },
  };
}

function groupRow({kind}) {
  const [button, served, none, badge] = [make("button", "set"), make("span", "left"), make("p", "none"), make("span", "badge")];
  button.type = "button";
  button.addEventListener("click", () => {
    if (!choices.open.delete(kind)) choices.open.add(kind);
    refresh();
  });
  const element = row(
    cell("th", "rowheader", "", button), cell("td", "cell", "Served", served, none), cell("td", "cell", "On disk", badge),
  );
  element.classList.add("group");
  return {
    element,
    update({alike, now}) {
      put(button, `${counted(alike.length)} ${alike[0].served ? "certificates" : "bundles"} alike`);
      button.setAttribute("aria-expanded", String(choices.open.has(kind)));
      const ends = alike.filter((set) => set.served).map((set) => Date.parse(set.served.not_after));
      const [first, last] = [span(Math.min(...ends) - now), span(Math.max(...ends) - now)];
      const isOver = Math.max(...ends) < now;
      put(served, !ends.length ? "" : isOver ? "ended" : first === last ? `${first} left` : `${first} to ${last} left`);
      mark(served, "tone", ends.length ? life(alike[0].served, now).tone : "");
      put(none, alike[0].served ? `from ${alike[0].served.issuer}` : "");
      const [tone, words] = onDisk(alike[0]);
      mark(badge, "tone", tone);
      put(badge, words);
    },
  };
}

/** Show no more than a page of `items`; the button with the id `more` shows the next one. */
function limited(items, more, least = PAGE) {
  const shown = items.slice(0, choices.limits.get(more) ?? least);
  show(byId(more), shown.length < items.length);
  const hidden = items.length - shown.length;
  put(byId(more), hidden > PAGE ? `Show ${PAGE} of ${counted(hidden)} more` : `Show ${counted(hidden)} more`);
  byId(more).dataset.shown = shown.length;
  return shown;
}

function drawCertificates(view, now) {
  const sets = view.certificates;
  drawStrip(sets, now);
  const items = certificateItems(view, now);
  each(byId("certificates"), limited(items, "certificates-more"), ({key}) => key, (item) => item.set ? certificateRow() : groupRow(item));
  show(byId("certificates-table"), items.length > 0);
  show(byId("certificates-none"), !sets.length);
  show(byId("certificates-tools"), sets.length > FEW);
  const found = choices.filter ? items.length : sets.length;
  put(byId("certificates-found"), choices.filter ? `${counted(found)} of ${plural(sets.length, "certificate")}` : plural(found, "certificate"));
}

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

function change({set, before, after}) {
  return `${set}: ${before ? shortened(before) : "none"} → ${after ? shortened(after) : "none"}`;
}

const CHANGES_SHOWN = 3;

function changeLines(attempt) {
  const lines = attempt.changes.map(change);
  if (lines.length <= CHANGES_SHOWN + 1) return lines;
  return [...lines.slice(0, CHANGES_SHOWN), `and ${counted(lines.length - CHANGES_SHOWN)} more`];
}

function rotationRow() {
  const [name, outcome, about] = [make("span"), make("span", "badge"), make("ul", "facts")];
  const [reason, stack, sum, legend] = [make("p", "why"), make("span", "stack"), make("strong"), make("ul", "phases")];
  const [proof, kept, all, summary] = [make("ul", "losses"), make("span", "kept"), make("ul", "facts"), make("summary", "", "details")];
  stack.setAttribute("aria-hidden", "true");
  const more = make("details", "", summary, legend, all);
  const element = row(
    cell("th", "rowheader", "", make("span", "attempt", name, " ", outcome), about, reason),
    cell("td", "cell", "Time", make("span", "measure", stack, " ", sum)),
    cell("td", "cell", "Clients", make("div", "head", kept, more), proof),
  );
  return {
    element,
    update({attempt, now, longest, serving}) {
      put(name, `Epoch ${attempt.epoch}`);
      summary.setAttribute("aria-label", `details of epoch ${attempt.epoch}`);
      const shown = result(attempt, serving);
      put(outcome, shown);
      mark(outcome, "tone", OUTCOMES[shown] ?? "");
      const began = Date.parse(attempt.began_at);
      texts(about, [`${attempt.trigger}, ${moment(attempt.began_at, now)}, ${span(now - began)} ago`, ...changeLines(attempt)]);
      const why = isCrash(attempt.end) ? `It ${crash(attempt.end)}.` : attempt.reason;
      show(reason, Boolean(why));
      put(reason, why);
      const phases = toHandover(attempt);
      each(stack, phases, (phase) => phase.name, segment);
      style(stack, "width", `${(total(phases) / longest * 100).toFixed(1)}%`);
      put(sum, phases.length ? brief(total(phases)) : "");
      each(legend, attempt.phases, (phase) => phase.name, phaseLine);
      const lost = losses(attempt);
      texts(proof, lost);
      show(kept, Boolean(attempt.evidence) && !lost.length);
      put(kept, "nobody lost ✓");
      texts(all, measured(attempt));
      show(more, attempt.phases.length > 0);
    },
  };
}

const ROTATIONS_FIRST = 5;

function drawRotations(view, now) {
  drawWeek(view, now);
  drawReactions(view);
  const longest = Math.max(0.001, ...view.rotations.map((attempt) => total(toHandover(attempt))));
  const shown = limited(view.rotations, "rotations-more", ROTATIONS_FIRST);
  const items = shown.map((attempt) => ({attempt, now, longest, serving: view.epoch}));
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

const LISTENERS_FIRST = 5;

function drawListeners(view) {
  const busiest = [...view.listeners].sort((one, other) => (other.queue ?? 0) - (one.queue ?? 0));
  const items = view.listeners.length > LISTENERS_FIRST ? busiest : view.listeners;
  each(byId("listeners"), limited(items, "listeners-more", LISTENERS_FIRST), (listener) => listener.address, listenerRow);
  show(byId("listeners-table"), view.listeners.length > 0);
  show(byId("listeners-none"), !view.listeners.length);
}

/** Whether clients were lost in the attempts that are known. */
function keptAll(view) {
  const ended = view.rotations.filter((attempt) => attempt.evidence || attempt.end);
  if (!ended.length || ended.some((attempt) => losses(attempt).length)) return "";
  return `Nobody lost in ${plural(ended.length, "rotation")} ✓`;
}

function drawVerdict(view, now) {
  const {tone, headline, troubles} = verdict(view, now);
  const isLost = contact.word === "lost";
  const seen = `Connection lost, last seen ${moment(view.at, now)}.`;
  mark(document.body, "tone", isLost ? "lost" : tone);
  put(byId("headline"), isLost ? seen : headline);
  texts(byId("troubles"), isLost ? [`It was: ${headline}`, ...troubles] : troubles);
  put(byId("outlook"), [outlook(view, now), keptAll(view)].filter(Boolean).join(" "));
  const name = view.host || "proxy agent";
  const state = isLost ? "Connection lost" : !view.ready ? "Not ready" : TONES.indexOf(tone) > 1 ? "Ready, with trouble" : "Ready";
  document.title = `${state} · ${name}`;
  put(byId("host"), name);
  put(byId("identity"), [
    `proxy agent ${view.version}`, `pid ${view.pid}`, `up ${span(now - Date.parse(view.started_at))}`,
    view.watch === "inotify" ? "files watched by inotify" : `files watched by ${view.watch}`,
  ].join(" · "));
}

const REFUSED_FIRST = 5;

function draw(view, now) {
  const focused = document.activeElement;
  drawVerdict(view, now);
  each(byId("refused"), limited(view.refused, "refused-more", REFUSED_FIRST), (item) => `${item.path} ${item.reason}`, refusedCard);
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
for (const id of ["refused-more", "certificates-more", "rotations-more", "listeners-more"])
  byId(id).addEventListener("click", () => {
    choices.limits.set(id, Number(byId(id).dataset.shown) + PAGE);
    refresh();
  });
byId("filter").addEventListener("input", () => {
  choices.filter = byId("filter").value;
  choices.limits.delete("certificates-more");
  refresh();
});
connect();
setInterval(tick, SECOND);
