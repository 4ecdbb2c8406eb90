// "Is it quoting?": the card beside an answer, and examples of the chat data with their marks.

import { make, number, say } from "./words.js";

const KINDS = ["", "shared", "run"]; // as the server numbers them

export function showSegments(place, segments) {
  place.replaceChildren(...segments.map(([text, kind]) =>
    kind ? make("mark", KINDS[kind], text) : document.createTextNode(text)));
}

export function exampleBody(example) {
  const list = make("dl", "example-turns");
  for (const message of example.messages) {
    const role = message.role === "system" ? "systemRole" : message.role;
    list.append(make("dt", message.role, say(role)));
    const words = make("dd");
    showSegments(words, message.segments);
    list.append(words);
  }
  return list;
}

function foldedExample(example) {
  const box = make("details", "near");
  const head = make("summary");
  const asked = example.messages.find((message) => message.role === "user") ?? example.messages[0];
  head.append(make("span", "near-title", asked.segments.map(([text]) => text).join("").slice(0, 90)));
  if (example.cosine !== undefined) {
    const badge = make("span", "badge", number(example.cosine, 2));
    badge.title = say("cosine");
    head.append(badge);
  } else if (example.run_words > 2) head.append(make("span", "badge", say("runOf", { run: example.run_words })));
  box.append(head, exampleBody(example));
  return box;
}

function verdictOf(found) {
  if (found.too_short) return ["quotesShort", "soft"];
  if (found.quoted_share >= 0.6) return ["quotesAll", "high"];
  return found.quoted_share > 0 ? ["quotesSome", "middle"] : ["quotesNone", "low"];
}

// `ask` posts to the server and gives its JSON, or null where there is no chat data.
export async function showQuotes(card, answerText, text, ask) {
  card.hidden = false;
  card.replaceChildren(make("h3", "", say("quoting")), make("p", "soft", say("looking")));
  const found = await ask("/api/quotes", { text });
  if (!found) {
    card.hidden = true;
    return;
  }
  showSegments(answerText, found.answer);
  const [word, level] = verdictOf(found);
  const verdict = make("p", `verdict ${level}`, say(word));
  const bar = make("meter", level);
  bar.max = 1;
  bar.value = found.quoted_share;
  bar.setAttribute("aria-label", say("quoting"));
  const values = { run: found.longest_run_words, words: found.num_words };
  const share = { share: number(100 * found.quoted_share), min: found.min_run_words };
  card.replaceChildren(
    make("h3", "", say("quoting")),
    verdict,
    bar,
    make("p", "", say("longest", values)),
    make("p", "soft", say("share", share)),
  );
  card.append(nearest(found));
}

// The nearest examples, by the words they share or by the model's own vectors.
function nearest(found) {
  const near = make("details", "nearest");
  near.open = matchMedia("(min-width: 44rem)").matches; // on a phone it would hide the chat
  const list = make("div");
  const show = (view) => {
    const examples = view === "vectors" ? found.similar : found.examples;
    list.replaceChildren(...examples.map(foldedExample));
    if (!examples.length) list.append(make("p", "soft", say("noNear")));
  };
  near.append(make("summary", "", say("near")));
  if (found.vectors_of) near.append(viewSwitch(found.vectors_of, show));
  near.append(list);
  show("words");
  return near;
}

// Two buttons of which one is pressed; `show` is told "words" or "vectors".
export function viewSwitch(model, show, chosen = "words") {
  const box = make("div", "views");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", say("nearBy"));
  const buttons = ["words", "vectors"].map((view) => {
    const button = make("button", "", say(view === "words" ? "byWords" : "byVectors"));
    button.type = "button";
    if (view === "vectors") button.title = say("byVectorsHelp", { model });
    button.setAttribute("aria-pressed", String(view === chosen));
    button.addEventListener("click", () => {
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
      show(view);
    });
    return button;
  });
  box.append(...buttons);
  return box;
}

export function exampleCard(example) {
  const card = make("article", "example");
  const where = `${example.source} · ${say("example", { number: number(example.number + 1) })}`;
  card.append(exampleBody(example), make("p", "soft", where));
  return card;
}
