"""UniPC with its coefficients on the CPU: diffusers computes them on the device, and waits for that at each step."""

import torch
from diffusers import UniPCMultistepScheduler


class UniPC(UniPCMultistepScheduler):
    """Zhao et al. 2023. On a CPU, and above the second order, it is diffusers' own.

    Each term is computed in diffusers' order, with coefficients that are rounded to the latents' dtype as there.
    """

    def multistep_uni_p_bh_update(self, model_output, *args, sample, order, **kwargs):
        if not self._is_ours(sample, order):
            return super().multistep_uni_p_bh_update(model_output, *args, sample=sample, order=order, **kwargs)
        scaled, b_h, differences, _ = self._terms(self.step_index, order, sample)
        return scaled - b_h * (0.5 * differences[0]) if differences else scaled

    def multistep_uni_c_bh_update(self, this_model_output, *args, last_sample, this_sample, order, **kwargs):
        if not self._is_ours(last_sample, order):
            return super().multistep_uni_c_bh_update(
                this_model_output, *args, last_sample=last_sample, this_sample=this_sample, order=order, **kwargs
            )
        scaled, b_h, differences, rhos = self._terms(self.step_index - 1, order, last_sample)
        corrected = rhos[-1] * (this_model_output - self.model_outputs[-1])
        return scaled - b_h * (rhos[0] * differences[0] + corrected if differences else corrected)

    def _is_ours(self, sample: torch.Tensor, order: int) -> bool:
        return sample.device.type != "cpu" and order <= 2 and self.predict_x0 and self.solver_p is None

    def _terms(
        self, index: int, order: int, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Of the step from `index` to the next: the sample scaled and moved towards the model's output, the factor of
        what follows, the difference from the output before (of order 2), and the corrector's weights."""

        def rounded(coefficient: torch.Tensor) -> torch.Tensor:
            return coefficient.to(sample.dtype)

        def half_log_snr(at: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[at])
            return alpha, sigma, torch.log(alpha) - torch.log(sigma)

        alpha_t, sigma_t, lambda_t = half_log_snr(index + 1)
        _, sigma_s0, lambda_s0 = half_log_snr(index)
        h = lambda_t - lambda_s0
        hh, m0 = -h, self.model_outputs[-1]
        b_h = hh if self.config.solver_type == "bh1" else torch.expm1(hh)
        scaled = rounded(sigma_t / sigma_s0) * sample - rounded(alpha_t * torch.expm1(hh)) * m0
        rhos, differences = torch.full((1,), 0.5), []
        if order == 2:
            rk = (half_log_snr(index - 1)[2] - lambda_s0) / h
            differences = [(self.model_outputs[-2] - m0) / rounded(rk)]
            phi_1 = torch.expm1(hh) / hh - 1
            phi_2 = phi_1 / hh - 0.5
            b = torch.stack([phi_1 / b_h, phi_2 * 2 / b_h])
            rhos = torch.linalg.solve(torch.stack([torch.ones(2), torch.stack([rk, torch.ones(())])]), b)
        return scaled, rounded(alpha_t * b_h), differences, rounded(rhos)
