// All texts of the page, in both languages. `{name}` is replaced.

const WORDS = {
  pt: {
    language: "EN", languageLabel: "EN: switch to English",
    skip: "Ir para a pergunta", views: "Vistas", chat: "Conversa", data: "Dados",
    newChat: "Nova conversa", settings: "Ajustes", conversation: "Conversa",
    themeAuto: "Tema: automático", themeLight: "Tema: claro", themeDark: "Tema: escuro",
    model: "Modelo", compareWith: "Comparar", user: "pessoa", assistant: "assistente", systemRole: "sistema", nobody: "ninguém",
    question: "Sua mensagem", ask: "Escreva uma mensagem…", send: "Enviar", stop: "Parar",
    hint: "Enter envia · Shift+Enter quebra a linha · Esc para",
    welcome: "Converse com {model}", welcomeBase: "{model} continua textos",
    welcomeText: "Um modelo pequeno, treinado do zero. Ele erra com convicção: confira o que diz.",
    welcomeTextBase: "Um modelo de base, sem treino de conversa. Comece uma frase e ele segue.",
    you: "Você", thinking: "Escrevendo…", stopped: "parado", copy: "Copiar", copied: "Copiado",
    retry: "Tentar de novo", stats: "{tokens} tokens · {rate} tokens/s", tryThese: "Experimente",
    forgot: "O contexto encheu: as mensagens mais antigas foram esquecidas.",
    errorNet: "O servidor não responde.", errorKey: "O servidor pede a chave: veja os ajustes.",
    match: "Está citando?", searching: "Procurando nos dados…",
    matchShort: "Curta demais para dizer", matchNone: "Palavras próprias", matchSome: "Cita em parte", matchAll: "Cita os dados",
    longest: "Maior trecho em comum: {run} de {words} palavras.",
    share: "{share} % das palavras estão em trechos de {min} ou mais palavras dos dados.",
    near: "Exemplos mais próximos", runOf: "{run} seguidas",
    example: "exemplo {number}", noNear: "Nenhum exemplo é parecido.",
    dataTitle: "Os dados de conversa", dataAbout: "{total} conversas com que o modelo aprendeu.",
    dataNone: "Este servidor não conhece os dados de conversa. Inicie-o com --data ARQUIVO.",
    searchData: "Procurar nos dados…", found: "{count} mostradas, em {ms} ms",
    nothing: "Nada encontrado.", more: "Mostrar mais",
    system: "Mensagem de sistema", systemHint: "Quem é o assistente (opcional)", key: "Chave do servidor",
    defaults: "Valores iniciais", done: "Pronto",
    temperature: "Temperatura", temperatureHelp: "0: sempre a palavra mais provável",
    top_p: "Top-p", top_pHelp: "só as palavras que juntas chegam a esta probabilidade",
    top_k: "Top-k", top_kHelp: "só as k mais prováveis; 0: todas",
    min_p: "Min-p", min_pHelp: "ao menos esta fração da mais provável",
    repetition_penalty: "Penalidade de repetição", repetition_penaltyHelp: "1: nenhuma",
    max_tokens: "Tokens por resposta", max_tokensHelp: "no máximo",
    seed: "Semente", seedHelp: "vazio: outra resposta a cada vez",
  },
  en: {
    language: "PT", languageLabel: "PT: mudar para português",
    skip: "Skip to the question", views: "Views", chat: "Chat", data: "Data",
    newChat: "New chat", settings: "Settings", conversation: "Conversation",
    themeAuto: "Theme: automatic", themeLight: "Theme: light", themeDark: "Theme: dark",
    model: "Model", compareWith: "Compare", user: "person", assistant: "assistant", systemRole: "system", nobody: "nobody",
    question: "Your message", ask: "Write a message…", send: "Send", stop: "Stop",
    hint: "Enter sends · Shift+Enter for a new line · Esc stops",
    welcome: "Chat with {model}", welcomeBase: "{model} continues your text",
    welcomeText: "A small model, trained from scratch. It makes confident mistakes: check what it says.",
    welcomeTextBase: "A base model, not trained to chat. Start a sentence and it continues.",
    you: "You", thinking: "Writing…", stopped: "stopped", copy: "Copy", copied: "Copied",
    retry: "Try again", stats: "{tokens} tokens · {rate} tokens/s", tryThese: "Try",
    forgot: "The context is full: the oldest messages were left out.",
    errorNet: "The server does not answer.", errorKey: "The server needs its key: see the settings.",
    match: "Training data match", searching: "Searching the data…",
    matchShort: "Too short to tell", matchNone: "No match", matchSome: "Partial match", matchAll: "Matches the data",
    longest: "Longest shared run: {run} of {words} words.",
    share: "{share} % of the words are in runs of {min} or more words of the data.",
    near: "Nearest examples", runOf: "{run} in a row",
    example: "example {number}", noNear: "No similar example.",
    dataTitle: "The chat data", dataAbout: "{total} conversations the model was trained on.",
    dataNone: "This server has no chat data. Start it with --data FILE.",
    searchData: "Search the data…", found: "{count} shown, in {ms} ms",
    nothing: "Nothing found.", more: "Show more",
    system: "System message", systemHint: "Who the assistant is (optional)", key: "The server's key",
    defaults: "Defaults", done: "Done",
    temperature: "Temperature", temperatureHelp: "0: always the most likely word",
    top_p: "Top-p", top_pHelp: "only the words that together reach this probability",
    top_k: "Top-k", top_kHelp: "only the k most likely; 0: all",
    min_p: "Min-p", min_pHelp: "at least this share of the most likely",
    repetition_penalty: "Repetition penalty", repetition_penaltyHelp: "1: none",
    max_tokens: "Tokens per answer", max_tokensHelp: "at most",
    seed: "Seed", seedHelp: "empty: a different answer each time",
  },
};

let language = "pt";

export const currentLanguage = () => language;

export function setLanguage(code) {
  language = code in WORDS ? code : "pt";
  document.documentElement.lang = language;
}

export function translate(name, values = {}) {
  const text = WORDS[language][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (whole, key) => String(values[key] ?? whole));
}

export const number = (value, digits = 0) =>
  value.toLocaleString(language === "pt" ? "pt-BR" : "en", { maximumFractionDigits: digits });

// An element with its classes and words; text is only ever text.
export function make(tag, classes = "", text = "") {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text) element.textContent = text;
  return element;
}

// The same for what people, models and data say: its first letter decides the direction.
export function makeText(tag, classes = "", text = "") {
  const element = make(tag, classes, text);
  element.dir = "auto";
  return element;
}
