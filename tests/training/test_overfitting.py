from teenytinyllama.training.overfitting import first_overfit


def test_a_loss_is_compared_with_the_best_before_it():
    assert first_overfit([], 0.02) is None
    assert first_overfit([2.0, 1.0, 1.02], 0.02) is None  # exactly at the margin
    assert first_overfit([2.0, 1.0, 1.021, 3.0], 0.02) == 2
