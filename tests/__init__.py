"""The tests compute as the stages do, also in the processes that they start: held before anything is loaded."""

from befriend import kernels

kernels.pin()
