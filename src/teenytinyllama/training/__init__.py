"""What pretrain, finetune and align share: one training loop and its parts."""
