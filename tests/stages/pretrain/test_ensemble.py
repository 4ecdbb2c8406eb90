import pytest
from support.tiny_llama import tiny_llama

from teenytinyllama.errors import UserError
from teenytinyllama.settings.pretraining import PretrainSettings
from teenytinyllama.stages.pretrain.ensemble import member_settings, train_members


def test_members_differ_in_their_seed_and_have_no_ensemble():
    settings = PretrainSettings(seed=7, ensemble={"members": 3, "teacher_weight": 0.7})
    members = [member_settings(settings, number) for number in range(3)]
    assert [member.seed for member in members] == [8, 9, 10]
    for member in members:
        assert (member.ensemble.members, member.ensemble.teacher_weight) == (0, 0.7)
        changed = {"seed", "ensemble"}
        assert member.model_dump(exclude=changed) == settings.model_dump(exclude=changed)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = PretrainSettings(ensemble={"members": 2})
    with pytest.raises(UserError, match="trains in one process, 2 were started"):
        train_members(settings, tmp_path, lambda *_: None)


def test_in_a_chain_each_member_is_taught_by_the_one_before(tmp_path):
    def trained(chained):
        taught, made = [], [tiny_llama(initializer_range=0.1 * (n + 1)) for n in range(3)]

        def train(settings, folder, teacher):
            number = int(folder.name)
            taught.append(teacher and weights_of(teacher.members[0]))
            made[number].save_pretrained(folder / "final")

        folder = tmp_path / str(chained)
        settings = PretrainSettings(ensemble={"members": 3, "chained": chained})
        ensemble = train_members(settings, folder, train)
        assert [weights_of(m) for m in ensemble] == [weights_of(m) for m in made]
        return taught, made

    taught, made = trained(True)
    assert taught == [None, weights_of(made[0]), weights_of(made[1])]
    assert trained(False)[0] == [None, None, None]


def weights_of(model):
    return model.model.norm.weight.tolist() + model.lm_head.weight[0].tolist()
