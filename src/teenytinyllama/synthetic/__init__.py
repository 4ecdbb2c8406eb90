"""A small invented world of any size, made from a seed: text for the quick start and the tests.

A model that has read enough of it knows its characters, and how much it knows can be measured.
Nothing is downloaded or taken from other people's texts, and every item depends on the seed and
its own number alone. Callers use `dataset`. In reading order:

- `grammar`: word lists and sentence patterns, agreement, plurals, verb forms, random draws
- `world`: the characters and their facts
- `word_forms`: each character's words, inflected for the patterns
- `phrasing`: how a fact is stated, asked and answered
- `instructions`: small tasks with right answers
- `labelled_items`: sentiment reviews and multiple-choice questions
- `stories`: documents for pretraining
- `dialogues`: conversations for chat training
- `small_languages`: a smaller world for other languages, from `languages/<code>/storybook.toml`
- `dataset`: all of these by language
"""
