#!/bin/sh
# Reproduces the CIFAR-10 (JPEG) results of docs/results.md: teacher, plain student, robust student, full evaluation.
# Usage: examples/cifar10.sh CIFAR_DIR OUTPUT_DIR [SEED]
# It takes about two hours on one CPU core, most of them for the evaluation.
# After an interruption give the same command again: finished models are kept, unfinished work continues.
set -eu
data="parquet:$1" out=$2 seed=${3:-0}
student="--data $data --teacher $out/teacher --model convnet:16 --seed $seed"
selection="--selection.snr-db 15 --selection.radius 0.0078431"

done_already() { [ -f "$out/$1/model.json" ]; }
done_already teacher || robust-student train --data "$data" --model convnet:32 --epochs 8 --seed "$seed" \
  --augmentation.crop 4 --augmentation.flip --output "$out/teacher"
done_already secant || robust-student distill $student $selection --method secant --radius 0.0078431 \
  --epochs 7 --output "$out/secant"
done_already kd || robust-student distill $student $selection --method kd --epochs 14 --output "$out/kd"
robust-student evaluate "$out/teacher" "$out/kd" "$out/secant" --data "$data" --suite full \
  --autoattack-radius 0.0078431 --snr-db 20 15 10 0 --pgd-linf 0.0039216 0.0078431 0.0156863 --pgd-l2 0.25 \
  --batch-size 100 --seed "$seed" --output "$out/evaluation"
robust-student report "$out/evaluation"
