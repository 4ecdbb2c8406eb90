// The second tab: browse the chat data, all of it or what a search finds.

import { exampleCard } from "./attribution.js";
import { number, translate } from "./words.js";

const PAGE_SIZE = 12;
const PAUSE_MS = 180;

export class Explorer {
  constructor({ $, ask }) {
    Object.assign(this, { $, ask, offset: 0, total: null, searches: 0, last: null, timer: 0, shown: [] });
    $("query").addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.find(0), PAUSE_MS);
    });
    $("more").addEventListener("click", () => this.find(this.offset + PAGE_SIZE));
  }

  open() {
    this.$("query").focus();
    if (this.total === null) this.find(0);
  }

  async find(offset) {
    const search = ++this.searches;
    const query = this.$("query").value;
    const found = await this.ask("/api/examples", { query, offset, limit: PAGE_SIZE });
    if (search !== this.searches) return; // a later search is running
    this.offset = offset;
    this.last = found;
    this.total = found ? found.total : null;
    const examples = found ? found.examples : [];
    this.shown = offset ? [...this.shown, ...examples] : examples;
    const cards = examples.map(exampleCard);
    if (offset) this.$("examples").append(...cards);
    else this.$("examples").replaceChildren(...cards);
    if (offset && cards.length) {
      cards[0].tabIndex = -1;
      cards[0].focus({ preventScroll: true });
    }
    this.$("more").hidden = !found?.more;
    this.showWords();
  }

  changeLanguage() {
    this.$("examples").replaceChildren(...this.shown.map(exampleCard));
    this.showWords();
  }

  showWords() {
    const { $, last } = this;
    const about = this.total === null
      ? (this.searches ? translate("dataNone") : "") : translate("dataAbout", { total: number(this.total) });
    $("data-about").textContent = about;
    const count = $("examples").children.length;
    $("found").textContent = !last ? "" : !count ? translate("nothing")
      : translate("found", { count: number(count), ms: number(last.duration_ms, 1) });
  }
}
