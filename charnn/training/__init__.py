"""From ids to a checkpoint: batches, recipe, trainer."""

import os

# Between the small parallel pieces of a recurrent step, OpenMP's threads wait for each other by
# spinning. On a machine that does anything else besides, the thread waited for does not run
# meanwhile: measured, training fell to a tenth. A short spin costs little on a quiet machine. The
# setting is read when torch is loaded, so it stands here, before anything imports it.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# The same holds for numpy's products, which the samples of a training are made with.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
