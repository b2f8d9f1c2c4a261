"""Streams: state that is carried from call to call, in one thread and in several, small and growing, and over a real recording."""

from __future__ import annotations

import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hasten
from hasten.stream import guess

TensorInfo = hasten.TensorInfo


def parse(text: str, **constants: Any) -> bytes:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return model.SerializeToString()


SUMS = "g (float[n, 3] x, float[n, 3] state_in) => (mean, state_out) { state_out = Add(x, state_in) mean = ReduceMean(state_out) }"
PAST = "g (float[b, 1, d] x, float[b, t, d] past) => (y, present) { present = Concat <axis=1> (past, x) y = ReduceSum <keepdims=0> (present, axis) }"


@pytest.fixture(scope="module")
def sums() -> hasten.CompiledModel:
    return hasten.compile(parse(SUMS), threads=1)


# --- what is state ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "inputs, outputs, pairs",
    [
        ("input state sr", "output stateN", {"stateN": "state"}),
        ("x h0 c0", "y hn cn", {"hn": "h0", "cn": "c0"}),
        ("x h c", "y hn cn", {"hn": "h", "cn": "c"}),
        ("x h_0", "y h_n", {"h_n": "h_0"}),
        ("x lstm_h_in lstm_c_in", "y lstm_h_out lstm_c_out", {"lstm_h_out": "lstm_h_in", "lstm_c_out": "lstm_c_in"}),
        ("x prev_state", "y next_state", {"next_state": "prev_state"}),
        ("x input_states", "y output_states", {"output_states": "input_states"}),
        ("ids past_key_values.0.key past_key_values.0.value past_key_values.1.key", "logits present.0.key present.0.value present.1.key",
         {"present.0.key": "past_key_values.0.key", "present.0.value": "past_key_values.0.value", "present.1.key": "past_key_values.1.key"}),
        ("ids past", "logits present", {"present": "past"}),
        ("ids past_0 past_1", "logits present_0 present_1", {"present_0": "past_0", "present_1": "past_1"}),
        ("input_1 input_2", "output_1 output_2", {}),
        ("x", "y", {}),
        ("image", "image_out", {}),
        ("x cache_in", "y cache_out", {"cache_out": "cache_in"}),
        ("x h1 h2", "y h1n h2n", {"h1n": "h1", "h2n": "h2"}),
        ("x total", "y total_new", {"total_new": "total"}),
        ("x_in", "x_new x_next", {}),
    ],
)  # fmt: skip
def test_names_that_belong_together(inputs: str, outputs: str, pairs: dict[str, str]) -> None:
    infos = [[TensorInfo(n, "float32", (1, "d")) for n in names.split()] for names in (inputs, outputs)]
    assert guess(*infos) == pairs


def test_types_that_do_not_fit_are_no_pair() -> None:
    other = [TensorInfo("stateN", "float32", (2, 4)), TensorInfo("hn", "float64", (1,)), TensorInfo("cn", "float32", (1, 2))]
    assert guess([TensorInfo("state", "float32", (2, 3)), TensorInfo("h", "float32", (1,)), TensorInfo("c", "float32", (1,))], other) == {}


def test_wrong_pairs_are_refused(sums: hasten.CompiledModel) -> None:
    for arguments, words in (
        (({"sum": "state_in"},), "'sum': no such name"),
        (({"mean": "state_in"},), "output 'mean' cannot become input 'state_in'"),
        (({"state_out": "x", "mean": "x"},), "given twice"),
    ):
        with pytest.raises(hasten.InputError, match=words):
            sums.stream(*arguments)
    with pytest.raises(hasten.InputError, match="'x' is no state; state is state_in"):
        sums.stream(initial={"x": np.zeros((1, 3))})
    with pytest.raises(hasten.InputError, match="say what is state: stream"):
        hasten.compile(parse("g (float[n] x) => (y) { y = Relu(x) }")).stream()


# --- calls --------------------------------------------------------------------------------------------------------------
def test_state_is_carried(sums: hasten.CompiledModel, rng: np.random.Generator) -> None:
    frames = rng.standard_normal((5, 2, 3)).astype(np.float32)
    with sums.stream() as s:
        assert s.state == {}
        for k, frame in enumerate(frames):
            np.testing.assert_allclose(s(frame), frames[: k + 1].sum(0).mean(keepdims=True), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(s.state["state_in"], frames.sum(0), rtol=1e-5)
        with pytest.raises(ValueError, match="read-only"):
            s.state["state_in"][0] = 0
        s.reset({"state_in": np.ones((2, 3), np.float32)})
        np.testing.assert_allclose(s(frames[0]), (frames[0] + 1).mean(keepdims=True), rtol=1e-4, atol=1e-5)
    with pytest.raises(hasten.InputError, match="ended"):
        s(frames[0])


def test_state_is_not_copied(sums: hasten.CompiledModel) -> None:
    """What one call gave is what the next one reads."""
    seen: list[Any] = []
    s = sums.stream()
    s._model = lambda *arrays: (seen.append(arrays[1]), sums(*arrays))[1]
    s(np.ones((2, 3), np.float32))
    made = s._state[0]  # type: ignore[index]
    s(np.ones((2, 3), np.float32))
    assert seen[1] is made


def test_a_call_that_fails_changes_nothing(sums: hasten.CompiledModel) -> None:
    x = np.ones((2, 3), np.float32)
    s = sums.stream()
    s(x)
    for bad in ((np.ones((3, 3), np.float32),), (np.ones((2, 3)),), (), (x, x)):
        with pytest.raises(hasten.InputError):
            s(*bad)
    np.testing.assert_array_equal(s.state["state_in"], x)
    assert s(x) == 2


def test_state_that_grows(rng: np.random.Generator) -> None:
    model = hasten.compile(parse(PAST, axis=np.array([1])))
    frames = rng.standard_normal((20, 2, 1, 4)).astype(np.float32)
    with model.stream() as s:
        for k, frame in enumerate(frames):
            np.testing.assert_allclose(s(frame), frames[: k + 1, :, 0].sum(0), rtol=1e-4, atol=1e-5)
        assert s.state["past"].shape == (2, 20, 4)


def test_only_state_and_fixed_inputs() -> None:
    model = hasten.compile(parse("g (float[3] h, float step) => (hn) { hn = Add(h, step) }"))
    s = model.stream(fixed={"step": np.float32(2)}, initial={"h": np.arange(3, dtype=np.float32)})
    assert s() is None and s() is None
    np.testing.assert_array_equal(s.state["h"], [4, 5, 6])
    with pytest.raises(hasten.InputError, match="1 inputs were given, a call of this stream takes 0"):
        s(1.0)


# --- threads ------------------------------------------------------------------------------------------------------------
def test_a_stream_belongs_to_a_thread(sums: hasten.CompiledModel) -> None:
    x = np.ones((1, 3), np.float32)
    s = sums.stream()
    s(x)
    caught: list[Exception] = []

    def call() -> None:
        try:
            s(x)
        except hasten.InputError as error:
            caught.append(error)

    for _ in range(2):
        thread = threading.Thread(target=call, name="other")
        thread.start()
        thread.join()
        assert len(caught) == 1
        s.reset()  # hands it over: the second thread may call
    assert "belongs to the thread 'MainThread', this is 'other'" in str(caught[0])


def test_many_streams_at_once(sums: hasten.CompiledModel) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        s, x = sums.stream(), np.full((1, 3), number, np.float32)
        wrong.extend(number for k in range(500) if s(x) != (k + 1) * number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# --- real models over a real recording ------------------------------------------------------------------------------------
def recording(data: Path, seconds: float) -> np.ndarray:
    with wave.open(str(data / "inputs" / "speech_librispeech_16k_30s.wav")) as file:
        return np.frombuffer(file.readframes(int(seconds * file.getframerate())), np.int16).astype(np.float32) / 32768


def session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options)


@pytest.mark.models
def test_voice_activity(data: Path) -> None:
    """silero-vad, frame by frame, against ONNX Runtime with its state carried by hand; `stateN` becomes `state` by its name."""
    path = data / "models" / "vad_silero.onnx"
    peer, rate = session(path), np.array(16000)
    state = np.zeros((2, 1, 128), np.float32)
    with hasten.compile(path, threads=1).stream(fixed={"sr": rate}) as s:
        for frame in recording(data, 6.0)[: 512 * 180].reshape(-1, 1, 512):
            want, state = peer.run(None, {"input": frame, "state": state, "sr": rate})
            np.testing.assert_allclose(s(frame), want, atol=1e-4)
            np.testing.assert_allclose(s.state["state"], state, atol=1e-3)


@pytest.mark.models
def test_denoising(data: Path) -> None:
    """DTLN: a mask over the spectrum, then a filter of the waveform, each with its state, over the recording in steps of 128 samples."""
    paths = [data / "models" / f"denoise_dtln_{k}.onnx" for k in (1, 2)]
    pairs = [{"tf_op_layer_stack_2": "input_3"}, {"tf_op_layer_stack_5": "input_5"}]
    streams = [hasten.compile(p, threads=1).stream(pair) for p, pair in zip(paths, pairs, strict=True)]
    peers = [session(p) for p in paths]
    states = [np.zeros((1, 2, 128, 2), np.float32)] * 2

    def by_hand(k: int, frame: np.ndarray) -> np.ndarray:
        names = [i.name for i in peers[k].get_inputs()]
        result, states[k] = peers[k].run(None, dict(zip(names, (frame, states[k]), strict=True)))
        return result

    samples = recording(data, 4.0)
    for start in range(0, len(samples) - 512, 128):
        spectrum = np.fft.rfft(samples[start : start + 512])
        size = np.abs(spectrum).astype(np.float32).reshape(1, 1, -1)
        masks = streams[0](size), by_hand(0, size)
        np.testing.assert_allclose(*masks, atol=2e-4)
        block = np.fft.irfft(spectrum * masks[1].ravel()).astype(np.float32).reshape(1, 1, -1)
        np.testing.assert_allclose(streams[1](block), by_hand(1, block), atol=2e-4)
