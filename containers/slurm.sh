#!/usr/bin/env bash
# Maps of a whole study on SLURM: sbatch containers/slurm.sh /data/study /data/maps
#
# This job is small and only hands out the work; the processes that do it are jobs of their own,
# which Dask asks SLURM for and gives back. The same command takes a run up that was stopped.
#SBATCH --job-name=dmrimicro
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=2-00:00:00
#SBATCH --output=dmrimicro-%j.log

set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: sbatch $0 BIDS_DIR OUT_DIR [options of dmrimicro cohort]" >&2
    exit 2
fi
source_dir=$1
out_dir=$2
shift 2

# an environment that all nodes see: pip install "dmrimicro[cohort]"
source "${DMRIMICRO_VENV:?Set DMRIMICRO_VENV to the folder of a virtual environment}/bin/activate"
export OMP_NUM_THREADS=1

# exit code 3: some scans failed, and the group level lists them
status=0
dmrimicro cohort "$source_dir" "$out_dir" participant \
    --methods dti,noddi \
    --cluster slurm --workers 100 --memory 8GB --walltime 04:00:00 \
    --progress none "$@" || status=$?
if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then
    exit "$status"
fi

dmrimicro cohort "$source_dir" "$out_dir" group --progress none

# Training on two nodes of four GPUs each, as a job of its own (--preset gpu has 8 examples a step):
#   dmrimicro train codebook --preset gpu --out run/ --pool-only
#   srun --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 dmrimicro train codebook --preset gpu --out run/
# or with torchrun on each node:
#   torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \
#       -m DMRIMicroLib train codebook --preset gpu --out run/
exit "$status"
