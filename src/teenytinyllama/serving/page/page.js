// The page: chat, settings and the chat data. Plain modules, no library, no request to other sites.

import { Chat } from "./chat.js";
import { Explorer } from "./explore.js";
import { currentLanguage, make, translate, setLanguage } from "./words.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];
const SETTINGS = {
  temperature: { start: 0.7, min: 0, max: 2, step: 0.05 },
  top_p: { start: 0.95, min: 0.05, max: 1, step: 0.05 },
  top_k: { start: 0, min: 0, max: 200, step: 1 },
  min_p: { start: 0, min: 0, max: 1, step: 0.01 },
  repetition_penalty: { start: 1, min: 1, max: 2, step: 0.05 },
  max_tokens: { start: 256, min: 1, max: 2048, step: 1 },
};

const kept = (name, otherwise) => {
  try { return localStorage.getItem(`ttl-${name}`) ?? otherwise; } catch { return otherwise; }
};
const keep = (name, value) => {
  try { localStorage.setItem(`ttl-${name}`, value); } catch { /* private window: not kept */ }
};

export async function request(path, value, signal) {
  const headers = { "content-type": "application/json" };
  if ($("key").value) headers.authorization = `Bearer ${$("key").value}`;
  const body = value === undefined ? undefined : JSON.stringify(value);
  return fetch(path, { method: body ? "POST" : "GET", headers, body, signal });
}

// JSON of a response, null where the server has nothing to search; waits while the index is built.
async function ask(path, value, patience = 30) {
  try {
    const response = await request(path, value);
    if (response.status === 503 && patience > 0) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return ask(path, value, patience - 1);
    }
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

function settingsNow() {
  const values = {};
  for (const name of Object.keys(SETTINGS)) values[name] = Number($(`set-${name}`).value);
  const seed = $("set-seed").value.trim();
  if (/^-?\d{1,18}$/.test(seed)) values.seed = Number(seed);
  return { values, system: $("system").value.trim() };
}

function makeSettings() {
  const rows = [];
  for (const [name, { start, min, max, step }] of Object.entries(SETTINGS)) {
    const row = make("div", "setting");
    const label = make("label");
    label.htmlFor = `set-${name}`;
    const title = make("span", "setting-name");
    title.dataset.word = name;
    const help = make("span", "soft");
    help.dataset.word = `${name}Help`;
    label.append(title, help);
    const range = make("input");
    Object.assign(range, { type: "range", id: `set-${name}`, min, max, step });
    range.value = kept(name, start);
    const shown = make("output", "", range.value);
    shown.htmlFor = range.id;
    range.addEventListener("input", () => {
      shown.textContent = range.value;
      keep(name, range.value);
    });
    row.append(label, range, shown);
    rows.push(row);
  }
  const row = make("div", "setting");
  const label = make("label");
  label.htmlFor = "set-seed";
  const title = make("span", "setting-name");
  title.dataset.word = "seed";
  const help = make("span", "soft");
  help.dataset.word = "seedHelp";
  label.append(title, help);
  const input = make("input");
  Object.assign(input, { type: "text", id: "set-seed", inputMode: "numeric", autocomplete: "off" });
  row.append(label, input);
  $("setting-rows").append(...rows, row);
}

function resetSettings() {
  for (const [name, { start }] of Object.entries(SETTINGS)) {
    $(`set-${name}`).value = start;
    $(`set-${name}`).dispatchEvent(new Event("input"));
  }
  $("set-seed").value = $("system").value = "";
}

function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = $("theme");
  button.dataset.theme = theme;
  button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
  button.title = translate({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme]);
  button.setAttribute("aria-label", button.title);
}

function showWords() {
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = translate(element.dataset.word);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", translate(element.dataset.label));
    if (element.tagName === "BUTTON") element.title = translate(element.dataset.label);
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = translate(element.dataset.placeholder);
  }
  $("language").textContent = translate("language");
  $("language").setAttribute("aria-label", translate("languageLabel"));
  $("language").lang = currentLanguage() === "pt" ? "en" : "pt";
  showTheme($("theme").dataset.theme ?? "auto");
}

function showView(name) {
  for (const one of ["chat", "data"]) {
    const chosen = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    $(`view-${one}`).hidden = !chosen;
  }
  $("new").hidden = name !== "chat";
  document.body.dataset.view = name;
}

async function main() {
  const preferred = (navigator.language || "pt").slice(0, 2) === "pt" ? "pt" : "en";
  setLanguage(kept("language", preferred));
  makeSettings();
  $("theme").dataset.theme = kept("theme", "auto");
  try { $("key").value = sessionStorage.getItem("ttl-key") ?? ""; } catch { /* not kept */ }
  showWords();
  showView("chat");
  const chat = new Chat({ $, ask, request, settingsNow });
  const explorer = new Explorer({ $, ask });

  $("language").addEventListener("click", () => {
    setLanguage(currentLanguage() === "pt" ? "en" : "pt");
    keep("language", currentLanguage());
    showWords();
    chat.showWords();
    explorer.changeLanguage();
  });
  $("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf($("theme").dataset.theme) + 1) % THEMES.length];
    keep("theme", next);
    showTheme(next);
  });
  $("open-settings").addEventListener("click", () => $("settings").showModal());
  $("defaults").addEventListener("click", resetSettings);
  $("settings").addEventListener("click", (event) => {
    if (event.target === $("settings")) $("settings").close(); // on the backdrop
  });
  $("settings").addEventListener("close", () => {
    try { sessionStorage.setItem("ttl-key", $("key").value); } catch { /* not kept */ }
    if (!chat.models.length) chat.load();
  });
  for (const name of ["chat", "data"]) {
    $(`tab-${name}`).addEventListener("click", () => {
      showView(name);
      if (name === "data") explorer.open();
    });
  }
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = $("tab-chat").getAttribute("aria-selected") === "true" ? "tab-data" : "tab-chat";
    $(next).click();
    $(next).focus();
  });
  await chat.load();
}

main();
