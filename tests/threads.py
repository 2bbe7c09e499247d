"""What threads see of each other."""

import threading


def seen_meanwhile(look, run):
    """Lists what another thread sees, again and again, while something runs in this one."""
    stop, seen = threading.Event(), []

    def look_on():
        while not stop.is_set():
            seen.append(look())

    reader = threading.Thread(target=look_on)
    reader.start()
    try:
        run()
    finally:
        stop.set()
        reader.join()
    return seen
