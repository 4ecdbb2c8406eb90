from support.corpus_stage import room as room
