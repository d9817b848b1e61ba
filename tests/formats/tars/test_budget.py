import threading
import time

import pytest

from clipdre.formats.tars.budget import Budget


@pytest.mark.parametrize("wanted", [30, 60, 100, 500])
def test_threads_never_hold_more_than_the_budget(wanted):
    budget, lock, held, most = Budget(100), threading.Lock(), [0], [0]

    def work():
        with budget.held(wanted):
            with lock:
                held[0] += wanted
                most[0] = max(most[0], held[0])
            time.sleep(0.005)
            with lock:
                held[0] -= wanted

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert held == [0]
    assert most == [max(wanted, 100 // wanted * wanted)]


def test_bytes_are_free_again_after_an_error():
    budget = Budget(100)
    for _ in range(3):
        with pytest.raises(KeyError), budget.held(100):
            raise KeyError
    with budget.held(100):
        pass
