#!/bin/sh
# Reproduces the MNIST results of docs/results.md for one seed: teacher, plain student, three robust students and their
# evaluation.
# Usage: examples/mnist.sh MNIST_DIR OUTPUT_DIR [SEED]
# It takes about three quarters of an hour on one CPU core.
# After an interruption give the same command again: finished models are kept, unfinished work continues.
set -eu
data="mnist:$1" out=$2 seed=${3:-0}
student="--data $data --teacher $out/teacher --model cnn:8 --epochs 6 --seed $seed --selection.radius 0.1"

done_already() { [ -f "$out/$1/model.json" ]; }
done_already teacher || robust-student train --data "$data" --model cnn:32 --epochs 5 --seed "$seed" \
  --output "$out/teacher"
done_already kd || robust-student distill $student --method kd --output "$out/kd"
done_already exact || robust-student distill $student --method exact --output "$out/exact"
done_already secant || robust-student distill $student --method secant --radius 0.1 --output "$out/secant"
done_already noise || robust-student distill $student --method secant-exact --radius 0.1 --gradient.weight 100 \
  --output "$out/noise"
robust-student evaluate "$out/teacher" "$out/kd" "$out/exact" "$out/secant" "$out/noise" --data "$data" \
  --output "$out/evaluation" --snr-db 10 5 0 -5 --pgd-linf 0.05 0.1 0.2 --pgd-l2 0.5 1 2 \
  --autoattack fast --autoattack-radius 0.1 --seed "$seed"
robust-student report "$out/evaluation"
robust-student evaluate "$out/secant" --data "$data" --output "$out/standard-secant" \
  --snr-db 0 --pgd-linf 0.1 --pgd-l2 1 --pgd-steps 20 --autoattack standard --autoattack-radius 0.1 --seed "$seed"
