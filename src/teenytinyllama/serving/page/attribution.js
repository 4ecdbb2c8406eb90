// Training data match: the card beside an answer, and examples of the chat data with their marks.

import { make, makeText, number, translate } from "./words.js";

const KINDS = ["", "shared", "run"]; // as the server numbers them

export function showSegments(place, segments) {
  place.replaceChildren(...segments.map(([text, kind]) =>
    kind ? make("mark", KINDS[kind], text) : document.createTextNode(text)));
}

export function exampleBody(example) {
  const list = make("dl", "example-turns");
  for (const message of example.messages) {
    const role = message.role === "system" ? "systemRole" : message.role;
    list.append(make("dt", message.role, translate(role)));
    const words = makeText("dd");
    showSegments(words, message.segments);
    list.append(words);
  }
  return list;
}

function foldedExample(example) {
  const box = make("details", "near");
  const head = make("summary");
  const question = example.messages.find((message) => message.role === "user") ?? example.messages[0];
  head.append(makeText("span", "near-title", question.segments.map(([text]) => text).join("").slice(0, 90)));
  if (example.run_words > 2) head.append(make("span", "badge", translate("runOf", { run: example.run_words })));
  box.append(head, exampleBody(example));
  return box;
}

function levelOf(found) {
  if (found.too_short) return ["matchShort", "soft"];
  if (found.matched_fraction >= 0.6) return ["matchAll", "high"];
  return found.matched_fraction > 0 ? ["matchSome", "middle"] : ["matchNone", "low"];
}

// `ask` posts to the server and gives its JSON, or null where there is no chat data.
export async function showAttribution(card, answerText, text, ask) {
  card.hidden = false;
  card.replaceChildren(make("h3", "", translate("match")), make("p", "soft", translate("searching")));
  const found = await ask("/api/attribution", { text });
  if (!found) {
    card.hidden = true;
    return;
  }
  showSegments(answerText, found.answer);
  const [word, level] = levelOf(found);
  const bar = make("meter", level);
  bar.max = 1;
  bar.value = found.matched_fraction;
  bar.setAttribute("aria-label", translate("match"));
  const values = { run: found.longest_run_words, words: found.num_words };
  const share = { share: number(100 * found.matched_fraction), min: found.min_run_words };
  card.replaceChildren(
    make("h3", "", translate("match")),
    make("p", `match ${level}`, translate(word)),
    bar,
    make("p", "", translate("longest", values)),
    make("p", "soft", translate("share", share)),
    nearest(found),
  );
}

// The nearest examples, folded.
function nearest(found) {
  const near = make("details", "nearest");
  near.open = matchMedia("(min-width: 44rem)").matches; // on a phone it would hide the chat
  near.append(make("summary", "", translate("near")), ...found.examples.map(foldedExample));
  if (!found.examples.length) near.append(make("p", "soft", translate("noNear")));
  return near;
}

export function exampleCard(example) {
  const card = make("article", "example");
  const where = `${example.source} · ${translate("example", { number: number(example.number + 1) })}`;
  card.append(exampleBody(example), make("p", "soft", where));
  return card;
}
