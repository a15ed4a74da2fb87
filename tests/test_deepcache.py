"""The UNet run from features of an earlier step agrees with the whole UNet."""

import torch

from sd_space.model.unet_runner import UNetRunner


@torch.inference_mode()
def test_features_of_the_same_step_give_the_same_noise(loaded):
    """Of both models: the one has a plain last block, the other one with attention."""
    unet = loaded.pipeline.unet
    sample = torch.randn(2, unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    embeds = torch.randn(2, 77, unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    tensors = sample, torch.full((2,), 500.0), embeds
    runner = UNetRunner(unet)
    noise_pred, features = runner.predict_with_features(*tensors)
    assert torch.equal(noise_pred, unet(*tensors, return_dict=False)[0])
    assert torch.equal(runner.predict_from_features(*tensors, features), noise_pred)
