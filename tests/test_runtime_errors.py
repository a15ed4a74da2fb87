import pytest
import torch

from sd_space.runtime_errors import is_device_lost, is_out_of_memory, traceback_without_message


@pytest.mark.parametrize(
    ("error", "is_full", "is_lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB."), True, False),
        (torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True, False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error: out of memory"), False, False),
    ],
)
def test_out_of_memory_is_distinguished_from_a_lost_device(error, is_full, is_lost):
    assert (is_out_of_memory(error), is_device_lost(error)) == (is_full, is_lost)


def test_memory_that_the_machine_does_not_have_is_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_the_place_and_the_cause_are_reported_and_no_message():
    try:
        try:
            raise ValueError("a prompt")
        except ValueError as cause:
            raise RuntimeError("a path") from cause
    except RuntimeError as error:
        told = traceback_without_message(error)
    assert told.splitlines()[-1] == "ValueError" and "RuntimeError\ncaused by:" in told
    assert "test_runtime_errors.py" in told
