import pytest

from teenytinyllama.errors import UserError
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.pretrain.ensemble import member_settings, train_members


def test_members_differ_in_their_seed_and_have_no_ensemble():
    settings = PretrainSettings(seed=7, ensemble={"members": 3})
    members = [member_settings(settings, number) for number in range(3)]
    assert [member.seed for member in members] == [8, 9, 10]
    for member in members:
        assert member.ensemble.members == 0
        changed = {"seed", "ensemble"}
        assert member.model_dump(exclude=changed) == settings.model_dump(exclude=changed)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = PretrainSettings(ensemble={"members": 2})
    with pytest.raises(UserError, match="trains in one process, 2 were started"):
        train_members(settings, tmp_path, lambda *_: None)
