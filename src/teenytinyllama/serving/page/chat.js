// The conversation: questions, and the streamed answers of one model or two. Each model sees only
// its own answers.

import { showAttribution } from "./attribution.js";
import { make, makeText, number, translate } from "./words.js";

const NUM_SUGGESTIONS = 3;

export class Chat {
  constructor({ $, ask, request, settingsNow }) {
    Object.assign(this, { $, ask, request, settingsNow });
    this.models = [];
    this.turns = []; // {question, answers: Map(model name, text), row}
    this.stopper = null;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send($("question").value.trim());
    });
    $("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send($("question").value.trim());
      }
    });
    $("question").addEventListener("input", () => this.fitQuestion());
    $("stop").addEventListener("click", () => this.stopper?.abort());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !$("settings").open) this.stopper?.abort();
    });
    $("new").addEventListener("click", () => this.begin());
    $("model").addEventListener("change", () => this.showWords());
    $("second").addEventListener("change", () => this.showLayout());
  }

  async load() {
    let response = null;
    try {
      response = await this.request("/v1/models");
    } catch {
      this.note("errorNet");
      return;
    }
    if (!response.ok) {
      this.note(response.status === 401 ? "errorKey" : "errorNet");
      if (response.status === 401) this.$("settings").showModal();
      return;
    }
    this.note("");
    this.models = (await response.json()).data;
    const options = this.models.map((model) => new Option(model.id, model.id));
    this.$("model").replaceChildren(...options);
    const others = this.models.map((model) => new Option(model.id, model.id));
    this.$("second").replaceChildren(new Option(translate("nobody"), ""), ...others);
    this.$("second-box").hidden = this.models.length < 2;
    this.showWords();
    this.$("question").focus();
    this.suggest();
  }

  async suggest() {
    const found = await this.ask("/api/examples", { offset: 0, limit: 50 }, 5);
    const firsts = (found?.examples ?? []).map((one) => one.messages.find((m) => m.role === "user"));
    const words = firsts.filter(Boolean).map((m) => m.segments.map(([text]) => text).join(""));
    const short = [...new Set(words)].filter((text) => text.length > 12 && text.length < 90);
    const buttons = short.slice(0, NUM_SUGGESTIONS).map((text) => {
      const button = makeText("button", "suggestion", text);
      button.type = "button";
      button.addEventListener("click", () => this.send(text));
      return button;
    });
    this.$("suggestions").replaceChildren(...buttons);
  }

  showWords() {
    const { $ } = this;
    const model = this.models.find((one) => one.id === $("model").value);
    if (!model) return;
    const base = model.answers ? "" : "Base";
    $("welcome-title").textContent = translate(`welcome${base}`, { model: model.id });
    $("welcome-text").textContent = translate(`welcomeText${base}`);
    if ($("second").options.length) $("second").options[0].textContent = translate("nobody");
  }

  begin() {
    this.stopper?.abort();
    this.turns = [];
    this.$("turns").replaceChildren();
    this.note("");
    this.showLayout();
    this.$("question").focus();
  }

  showLayout() {
    document.body.classList.toggle("talking", this.turns.length > 0);
    this.$("welcome").hidden = this.turns.length > 0;
  }

  chosen() {
    const names = [this.$("model").value, this.$("second").value].filter(Boolean);
    return [...new Set(names)];
  }

  note(name, text = "") {
    this.$("note").textContent = text || (name ? translate(name) : "");
  }

  fitQuestion() {
    const field = this.$("question");
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, 200)}px`;
  }

  async send(question) {
    if (!question || this.stopper || !this.models.length) return;
    this.$("question").value = "";
    this.fitQuestion();
    this.note("");
    document.querySelectorAll(".nearest").forEach((near) => { near.open = false; });
    const row = make("section", "turn");
    const bubble = make("div", "question");
    bubble.append(make("span", "hidden", `${translate("you")}: `), makeText("p", "", question));
    row.append(bubble);
    this.$("turns").append(row);
    const turn = { question, answers: new Map(), row };
    this.turns.push(turn);
    this.showLayout();
    await this.answer(turn);
  }

  async answer(turn) {
    turn.row.querySelectorAll(".answers").forEach((old) => old.remove());
    document.querySelectorAll(".retry").forEach((button) => button.remove());
    turn.answers.clear();
    const names = this.chosen();
    const place = make("div", names.length > 1 ? "answers two" : "answers");
    turn.row.append(place);
    this.stopper = new AbortController();
    this.busy(true);
    const cards = names.map((name) => this.card(place, name));
    turn.row.scrollIntoView({ block: "start", behavior: "instant" });
    await Promise.all(cards.map((card) => this.stream(turn, card)));
    this.stopper = null;
    this.busy(false);
    this.offerRetry(turn, cards);
    await Promise.all(cards.filter((card) => card.answerText.trim()).map((card) =>
      showAttribution(card.attribution, card.text, card.answerText, this.ask)));
  }

  card(place, name) {
    const box = make("div", "pair");
    const article = make("article", "answer");
    article.append(make("h2", "name", name));
    const text = makeText("div", "text");
    const foot = make("footer");
    const status = make("span", "soft", translate("thinking"));
    foot.append(status);
    article.append(text, foot);
    article.setAttribute("aria-busy", "true");
    const attribution = make("aside", "attribution");
    attribution.hidden = true;
    box.append(article, attribution);
    place.append(box);
    return { name, article, text, foot, status, attribution, answerText: "" };
  }

  messagesFor(name, turn) {
    const { system } = this.settingsNow();
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const one of this.turns) {
      if (one === turn) break;
      const previous = one.answers.get(name);
      if (!previous?.trim()) continue;
      messages.push({ role: "user", content: one.question }, { role: "assistant", content: previous });
    }
    return [...messages, { role: "user", content: turn.question }];
  }

  // Posts the conversation; where it is too long, again without its oldest turn.
  async post(name, messages) {
    const { values } = this.settingsNow();
    const body = {
      model: name, messages, ...values, stream: true, stream_options: { include_usage: true },
    };
    const { max_model_len: context } = this.models.find((one) => one.id === name);
    if (2 * body.max_tokens > context) delete body.max_tokens; // as many as fit
    for (;;) {
      const response = await this.request("/v1/chat/completions", body, this.stopper.signal);
      if (response.ok) return response;
      const { error } = await response.json();
      const first = messages[0].role === "system" ? 1 : 0;
      if (error.code === "context-exceeded" && messages.length - first > 2) {
        messages.splice(first, 2);
        this.note("forgot");
      } else if (error.code === "context-exceeded" && body.max_tokens) {
        delete body.max_tokens; // as many as fit
      } else {
        throw new Error(error.code === "api-key" ? translate("errorKey") : error.message);
      }
    }
  }

  async stream(turn, card) {
    const startedAt = performance.now();
    let usage = null;
    let problem = "";
    try {
      const response = await this.post(card.name, this.messagesFor(card.name, turn));
      for await (const event of eventsOf(response.body)) {
        if (event.error) throw new Error(event.error.message);
        usage = event.usage ?? usage;
        const content = event.choices?.[0]?.delta?.content;
        const text = card.answerText ? content : content?.trimStart();
        if (text) {
          card.answerText += text;
          card.text.append(text);
          this.follow();
        }
      }
    } catch (error) {
      problem = error.name === "AbortError" ? translate("stopped")
        : error instanceof TypeError ? translate("errorNet") : error.message;
    }
    turn.answers.set(card.name, card.answerText);
    const seconds = (performance.now() - startedAt) / 1000;
    const tokens = usage?.completion_tokens;
    const rate = tokens ? number(tokens / seconds) : 0;
    card.status.textContent = problem || (tokens ? translate("stats", { tokens, rate }) : "");
    card.article.setAttribute("aria-busy", "false");
    if (card.answerText) card.foot.append(this.copyButton(card));
  }

  follow() {
    const page = document.scrollingElement;
    if (page.scrollHeight - page.scrollTop - page.clientHeight < 160) page.scrollTop = page.scrollHeight;
  }

  copyButton(card) {
    const button = make("button", "quiet small", translate("copy"));
    button.type = "button";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(card.answerText);
        button.textContent = translate("copied");
        setTimeout(() => { button.textContent = translate("copy"); }, 1500);
      } catch {
        getSelection().selectAllChildren(card.text); // the keyboard can copy it
      }
    });
    return button;
  }

  offerRetry(turn, cards) {
    const button = make("button", "quiet small retry", translate("retry"));
    button.type = "button";
    button.addEventListener("click", () => {
      if (!this.stopper) this.answer(turn);
    });
    cards[0].foot.append(button);
  }

  busy(is) {
    this.$("send").hidden = is;
    this.$("stop").hidden = !is;
    if (!is && document.activeElement === document.body) this.$("question").focus();
  }
}

// The JSON of each server-sent event, up to [DONE].
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
