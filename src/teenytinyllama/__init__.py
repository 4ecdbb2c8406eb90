"""TeenyTinyLlama: build a small language model of your own, from raw text to chat.

The stages, in order (`teenytinyllama.stages`):

    corpus     raw text -> clean, deduplicated, licensed documents
    tokenizer  documents -> vocabulary
    pack       documents -> token sequences
    pretrain   sequences -> base model
    evaluate   model -> scores
    finetune   base model -> classifiers
    align      base model -> chat model
    quantize   model -> small files for laptops
    report     manifests -> one page, model cards

`ttl quickstart` runs them all; `teenytinyllama.cli.main` is the command line.
"""

__version__ = "0.2.0"
