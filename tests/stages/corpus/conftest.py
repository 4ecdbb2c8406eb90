from corpus_room import room as room
