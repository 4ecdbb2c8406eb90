from support.corpus_stage import stage as stage
