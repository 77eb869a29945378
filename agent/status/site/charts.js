"use strict";

// Pictures of many certificates and attempts. They are hidden from screen readers: a sentence beside each says the same.

const WEEK = 7 * DAY;
const ATTEMPTS_KEPT = 100;  // the agent forgets older ones

function dot(className) {
  const element = make("span", className);
  return {
    element,
    update({left, tone, title = "", height = ""}) {
      style(element, "left", `${(left * 100).toFixed(2)}%`);
      if (height) style(element, "height", `${(height * 100).toFixed(0)}%`);
      mark(element, "tone", tone);
      if (element.title !== title) element.title = title;
    },
  };
}

// When certificates end: near the left side a day is wide, near the right side narrow.

const STRIP_COLUMNS = 120;
const STRIP_MARKS = [[2 * DAY, "2 d"], [14 * DAY, "14 d"], [60 * DAY, "60 d"], [180 * DAY, "180 d"], [365 * DAY, "1 y"]];
const RANKS = {"": 0, warn: 1, bad: 2};

function drawStrip(sets, now) {
  const served = sets.filter((set) => set.served);
  show(byId("strip"), served.length > 1);
  if (served.length < 2) return;
  const lefts = served.map((set) => Math.max(0, Date.parse(set.served.not_after) - now));
  const most = Math.max(30 * DAY, ...lefts) * 1.04;
  const place = (left) => Math.sqrt(left / most);
  const columns = new Map();
  served.forEach((set, index) => {
    const column = Math.round(place(lefts[index]) * STRIP_COLUMNS);
    const {tone} = life(set.served, now);
    const found = columns.get(column) ?? {column, names: [], tone: ""};
    found.names.push(set.name);
    if (RANKS[tone] > RANKS[found.tone]) found.tone = tone;
    columns.set(column, found);
  });
  const highest = Math.max(...[...columns.values()].map(({names}) => names.length));
  const items = [...columns.values()].map(({column, names, tone}) => ({
    column, tone, left: column / STRIP_COLUMNS,
    height: highest === 1 ? .7 : .3 + .7 * Math.log1p(names.length) / Math.log1p(highest),
    title: names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", "),
  }));
  each(byId("strip-marks"), items, ({column}) => column, () => dot("stroke"));
  each(byId("strip-axis"), STRIP_MARKS.filter(([at]) => at < most * .92), ([, text]) => text, () => {
    const element = make("span");
    return {
      element,
      update([at, text]) {
        put(element, text);
        style(element, "left", `${(place(at) * 100).toFixed(2)}%`);
      },
    };
  });
  const parts = [["ended", "ended"], ["urgent", "urgent"], ["soon", "end soon"], ["far", "do not"]]
    .map(([word, text]) => [served.filter((set) => expiry(set.served, now) === word).length, text]);
  const words = parts.filter(([count]) => count).map(([count, text]) => `${counted(count)} ${text}`);
  const near = parts.at(-1)[0] === served.length ? "none ends soon" : listed(words);
  put(byId("strip-words"), `${counted(served.length)} certificates: ${near}.`);
}

// Seven days of attempts

const LANES = [
  ["rotations", "rotation", (word) => word === "serving" || word === "succeeded", "good"],
  ["refused, failed", "refused or failed", (word) => word === "refused" || word === "failed" || word === "short", "warn"],
  ["crashes", "crash", (word) => word === "crashed", "bad"],
];

function lane({name, tone}) {
  const marks = make("span", "lane-marks");
  const element = make("div", "lane", make("span", "lane-name", name), marks);
  mark(element, "tone", tone);
  return {
    element,
    update({holds, attempts, now, serving}) {
      const items = attempts.filter((attempt) => holds(result(attempt, serving))).map((attempt) => {
        const at = isCrash(attempt.end) ? attempt.end.at : attempt.began_at;
        return {
          key: `${attempt.epoch} ${attempt.began_at}`, tone, left: 1 - (now - Date.parse(at)) / WEEK,
          title: `epoch ${attempt.epoch}, ${attempt.trigger}, ${moment(at, now)}`,
        };
      });
      each(marks, items, ({key}) => key, () => dot("pin"));
    },
  };
}

function drawWeek(view, now) {
  const attempts = view.rotations.filter((attempt) => now - Date.parse(attempt.began_at) < WEEK);
  show(byId("week"), attempts.length > 1);
  if (attempts.length < 2) return;
  const lanes = LANES.map(([name, , holds, tone]) => ({name, holds, tone, attempts, now, serving: view.epoch}));
  each(byId("week-lanes"), lanes, ({name}) => name, lane);
  const words = attempts.map((attempt) => result(attempt, view.epoch));
  const many = LANES.map(([name, one, holds]) => [words.filter(holds).length, one, name.replace(",", " or")])
    .filter(([number], index) => number || !index).map(([number, one, name]) => plural(number, one, name));
  const isWhole = attempts.length < Math.max(ATTEMPTS_KEPT, view.rotations.length);
  put(byId("week-words"), `${listed(many)} ${isWhole ? "in the last 7 days" : `since ${moment(attempts.at(-1).began_at, now)}`}.`);
}

// From a change on disk until it serves

const BINS = [0.25, 0.5, 1, 2, 5, 15, 60, Infinity];
const BIN_NAMES = ["¼ s", "½ s", "1 s", "2 s", "5 s", "15 s", "1 min", "more"];

function column() {
  const [fill, count, name] = [make("span", "pile"), make("span", "pile-count"), make("span", "pile-name")];
  const element = make("div", "pile-column", count, make("span", "pile-room", fill), name);
  return {
    element,
    update({many, most, text}) {
      style(fill, "height", `${(many / most * 100).toFixed(0)}%`);
      put(count, many ? counted(many) : "");
      put(name, text);
    },
  };
}

function drawReactions(view) {
  const found = view.rotations.map(reaction).filter((seconds) => seconds !== null).sort((a, b) => a - b);
  show(byId("reactions"), found.length > 0);
  if (!found.length) return;
  const many = BINS.map((bound, index) => found.filter((s) => s < bound && s >= (BINS[index - 1] ?? 0)).length);
  const most = Math.max(...many);
  each(byId("reactions-columns"), many.map((count, index) => ({many: count, most, text: BIN_NAMES[index]})),
    ({text}) => text, column);
  const at = (share) => found[Math.min(found.length - 1, Math.floor(share * found.length))];
  put(byId("reactions-words"), found.length === 1 ? `One change served ${brief(found[0])} after it was noticed.`
    : `Of ${counted(found.length)} changes, half served within ${brief(at(.5))}, the slowest after ${brief(found.at(-1))}.`);
}
