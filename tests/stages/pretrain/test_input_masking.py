import numpy as np

from teenytinyllama.stages.pretrain.input_masking import mask_inputs


def masked(rows, step=3, seed=0, share=0.25):
    ids = np.full((len(rows), 1000), 9)
    ids[:, ::10] = 1
    return mask_inputs(ids, np.array(rows), share, mask_id=0, kept_id=1, step=step, seed=seed)


def test_the_share_is_hidden_and_bos_is_not():
    found = masked(range(20))
    assert set(np.unique(found)) == {0, 1, 9}
    assert (found[:, ::10] == 1).all()
    assert abs((found == 0).sum() / (found != 1).sum() - 0.25) < 0.01


def test_it_is_a_function_of_seed_step_and_row_alone():
    together = masked([4, 5, 6])
    assert np.array_equal(masked([5])[0], together[1])
    for other in (masked([5], step=4), masked([5], seed=1), masked([6])):
        assert (other != masked([5])).any()
