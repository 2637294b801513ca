"""Sessions for a worker: an honest one, and some whose times do not belong to their work."""

import threading
import time
from types import MappingProxyType

import numpy as np

CLASSES = 3
WEIGHTS = np.random.default_rng(5).normal(size=(4, CLASSES)).astype(np.float32)
COST_S = 0.002
TABLE = set()


def compute(images):
    time.sleep(COST_S)
    return images.reshape(len(images), -1) @ WEIGHTS


class Honest:
    facts = MappingProxyType({"precision": "float32"})

    def run(self, inputs):
        return compute(inputs[0])

    def close(self):
        pass


class Lazy(Honest):
    """Gives a promise; its values are computed when they are read."""

    class Promise:
        def __init__(self, images):
            self.images = images

        def __array__(self, dtype=None, copy=None):
            return compute(self.images)

    def run(self, inputs):
        return self.Promise(inputs[0])


class Asynchronous(Honest):
    """Returns an array that a thread fills later."""

    def run(self, inputs):
        answer = np.zeros((len(inputs[0]), CLASSES), np.float32)
        images = inputs[0].copy()
        threading.Thread(target=lambda: answer.__setitem__(slice(None), compute(images))).start()
        return answer


class Stale(Honest):
    """Answers at once what it computed for the first images, when it is called often."""

    def __init__(self):
        self.kept = None
        self.last = 0.0

    def run(self, inputs):
        now = time.perf_counter()
        often, self.last = now - self.last < 0.5 * COST_S, now
        if self.kept is None or not often:
            self.kept = compute(inputs[0])
            self.last = time.perf_counter()
        return self.kept.copy()


class Remembers(Honest):
    def __init__(self):
        self.kept = {}

    def run(self, inputs):
        key = inputs[0].tobytes()
        if key not in self.kept:
            self.kept[key] = compute(inputs[0])
        return self.kept[key]


class Rounds(Honest):
    """Remembers answers by inputs that are rounded to two digits."""

    def __init__(self):
        self.kept = {}

    def run(self, inputs):
        key = inputs[0].round(2).tobytes()
        if key not in self.kept:
            self.kept[key] = compute(inputs[0])
        return self.kept[key]


class RemembersHalf(Rounds):
    """Remembers a stage that takes a third of the time."""

    def run(self, inputs):
        key = inputs[0].round(2).tobytes()
        if key not in self.kept:
            time.sleep(COST_S / 2)
            self.kept[key] = None
        return compute(inputs[0])


class RemembersLast(Honest):
    """Answers at once if the image is the last one again."""

    def __init__(self):
        self.last, self.answer = None, None

    def run(self, inputs):
        if self.last is None or not np.array_equal(self.last, inputs[0]):
            self.last, self.answer = inputs[0].copy(), compute(inputs[0])
        return self.answer


class ComputesOnce(Honest):
    """Computes each image of a batch once, if the batch has it several times."""

    def run(self, inputs):
        flat = inputs[0].reshape(len(inputs[0]), -1)
        unique, places = np.unique(flat, axis=0, return_inverse=True)
        time.sleep(COST_S * len(unique))
        return (unique @ WEIGHTS)[places.ravel()]


class Rehearses(Rounds):
    """Has a method of a name that the virtual lab uses for its replay."""

    def rehearse(self, inputs):
        return self.run(inputs)


class EarlyExit(Honest):
    """Takes three times as long for difficult pictures, and does not remember any."""

    def run(self, inputs):
        if inputs[0].std() > 1:
            time.sleep(2 * COST_S)
        return compute(inputs[0])


class SkipsZeros(Honest):
    """Takes time for values that are not zero."""

    def run(self, inputs):
        time.sleep(0.5 * COST_S * np.count_nonzero(inputs[0]) / len(inputs[0]))
        return compute(inputs[0])


class Masks(Honest):
    """Gives a class that it never chooses the least number."""

    def run(self, inputs):
        answer = compute(inputs[0])
        answer[:, 1] = np.finfo(np.float32).min
        return answer


class Dead(Honest):
    """All logits are zero."""

    def run(self, inputs):
        return 0 * compute(inputs[0])


class NoAnswerToSome(Honest):
    """Answers NaN to pictures whose first pixel is above ``MOST``."""

    MOST = 1.5

    def run(self, inputs):
        answer = compute(inputs[0])
        answer[inputs[0].reshape(len(answer), -1)[:, 0] > self.MOST] = np.nan
        return answer


class Reuses(Honest):
    """Writes all answers of one size into the same memory."""

    def __init__(self):
        self.buffers = {}

    def run(self, inputs):
        answer = compute(inputs[0])
        buffer = self.buffers.setdefault(len(answer), np.zeros_like(answer))
        buffer[:] = answer
        return buffer


class Subclass(np.ndarray):
    pass


class Gives(Honest):
    """Gives its answer in another form."""

    def __init__(self, form):
        self.form = form

    def run(self, inputs):
        return self.form(compute(inputs[0]))


def read_only(answer):
    answer.flags.writeable = False
    return answer


class OnGpu:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Table(Honest):
    """Looks the images of ``TABLE`` up and computes all others."""

    def run(self, inputs):
        answer = compute(inputs[0]).copy()
        for row, image in zip(answer, inputs[0], strict=True):
            if image.tobytes() in TABLE:
                row[:] = [0, 1, 0]
        return answer


class Wrong(Honest):
    def __init__(self, answer):
        self.answer = answer

    def run(self, inputs):
        return self.answer(inputs[0])


def in_place(images):
    images *= 2
    return np.zeros((len(images), CLASSES), np.float32)


ANSWERS = {
    "one class too many": lambda images: np.zeros((len(images), CLASSES + 1), np.float32),
    "no batch": lambda images: np.zeros(CLASSES, np.float32),
    "float64": lambda images: np.zeros((len(images), CLASSES)),
    "nothing": lambda images: None,
    "text": lambda images: "cat",
    "on a GPU": lambda images: OnGpu(),
    "nan": lambda images: np.full((len(images), CLASSES), np.nan, np.float32),
    "in place": in_place,
}

FORMS = {
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "subclass": lambda answer: answer.view(Subclass),
    "memoryview": memoryview,
    "every second value": lambda answer: np.repeat(answer, 2, axis=1)[:, ::2],
}

SESSIONS = {
    "honest": Honest,
    "lazy": Lazy,
    "asynchronous": Asynchronous,
    "stale": Stale,
    "remembers": Remembers,
    "table": Table,
    "rounds": Rounds,
    "remembers half": RemembersHalf,
    "remembers last": RemembersLast,
    "computes once": ComputesOnce,
    "rehearses": Rehearses,
    "early exit": EarlyExit,
    "skips zeros": SkipsZeros,
    "masks": Masks,
    "dead": Dead,
    "no answer to some": NoAnswerToSome,
    "reuses": Reuses,
    **{name: (lambda form=form: Gives(form)) for name, form in FORMS.items()},
    **{name: (lambda answer=answer: Wrong(answer)) for name, answer in ANSWERS.items()},
}


def load(artifact, options):
    return SESSIONS[artifact.meta["session"]]()


def replayed(session):
    """Stands for the virtual lab's wrapper: the session replays what it rehearsed."""
    session.rehearse = session.run
    return session
