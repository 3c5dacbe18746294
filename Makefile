# The README's commands. Environments: .venv-demo (runtime alone), .venv (everything, pinned).
PYTHON ?= python3
TORCH ?= torch==2.13.0
# Where pip finds the CPU build of torch; empty: the public index's own (CUDA on Linux).
TORCH_INDEX ?=
DATA ?= ../shared/data
BIN := .venv/bin

.PHONY: demo test check lean bench web pictures reference tour train-smoke ablation train-flowers people-model people-lite0-model default-model clean

demo: .venv-demo/done
	.venv-demo/bin/python examples/refocus.py examples/dahlia.jpg out

.venv-demo/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install -q -c constraints.txt .
	touch $@

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e ".[train,metrics,export,heif,video,serve,dev]"
	touch $@

test: .venv/done
	$(BIN)/pytest -n 2 --full tests

check: .venv/done
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The built wheel, without torch, passes the runtime's tests.
lean: .venv/done
	rm -rf dist .venv-lean
	$(BIN)/python -m build -q --wheel
	$(PYTHON) -m venv .venv-lean
	.venv-lean/bin/pip install -q -c constraints.txt dist/*.whl pytest
	.venv-lean/bin/python -c "import importlib.util as u; assert u.find_spec('torch') is None"
	.venv-lean/bin/pytest tests/runtime

bench: .venv/done
	$(BIN)/python benchmarks/lens_quality.py --data $(DATA)/oracle-public
	$(BIN)/python benchmarks/lens_speed.py
	$(BIN)/python benchmarks/video.py --data $(DATA)/oracle-public
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/layered.py --data $(DATA)/oracle-public
	$(BIN)/python benchmarks/serve_load.py
	$(BIN)/python benchmarks/fuzz_decoders.py --json out/fuzz.json
	$(BIN)/python benchmarks/train.py --json out/train.json

# The page of docs/web.md, as a folder that any host can serve. Takes npm.
web: .venv-web/done
	npm ci --prefix examples/web
	npm run --silent --prefix examples/web check
	.venv-web/bin/python examples/web/build.py out/web

.venv-web/done: examples/web/requirements.txt constraints.txt
	$(PYTHON) -m venv .venv-web
	.venv-web/bin/pip install -q -c constraints.txt -r examples/web/requirements.txt
	touch $@

# Those of docs/optics.md and docs/gallery.md.
pictures: .venv/done
	$(BIN)/python docs/make_pictures.py --data $(DATA)

# docs/commands.md from the command line, out/reference/index.html from the docstrings.
reference: .venv/done
	$(BIN)/python docs/make_reference.py

# examples/tour.ipynb, run anew; keeps what it gave.
tour: .venv/done
	$(BIN)/python docs/make_reference.py tour

# AR-GAN and AR-GAN-DR on the toy world: does it learn depth? About 15 minutes on two cores (not timed yet).
train-smoke: .venv/done
	$(BIN)/python benchmarks/train_smoke.py

# What each part of AR-GAN is good for, over three seeds: hours. What is finished is kept.
ablation: .venv/done
	$(BIN)/python benchmarks/ablation.py --data toy --preset toy32-prior --seeds 0 1 2 --student \
		--count 1000 --workers 2 --out runs/ablation

# A model of flowers in one go, twelve hours on two cores as reckoned from parts; stopped, the same command goes on.
# The weights that ship are of this recipe, but for the first line, of which 4,140 of 15,000 steps were made, the scenes
# of all rounds with photos but the last four, which were simpler then, and what all but the last followed (docs/training.md).
train-flowers: .venv/done
	$(BIN)/argan train ar-gan --preset flowers64 --data $(DATA)/flowers128.zip --out runs/flowers64 --resume
	$(BIN)/argan train ar-gan-dr --preset dr64 --teacher runs/flowers64 --out runs/flowers-dr-1 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-1 \
		--photos $(DATA)/flowers128.zip --steps 800 --out runs/flowers-dr-2 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-2 \
		--photos $(DATA)/flowers128.zip --out runs/flowers-dr-3 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-3 \
		--photos $(DATA)/flowers128.zip --steps 5000 --out runs/flowers-dr-4 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-4 \
		--photos $(DATA)/flowers128.zip --steps 6000 --decoder light --out runs/flowers-dr-5 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-5 \
		--photos $(DATA)/flowers128.zip --steps 2800 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--out runs/flowers-dr-6 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-6 \
		--photos $(DATA)/flowers128.zip --steps 2400 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--out runs/flowers-dr-7 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-7 \
		--photos $(DATA)/flowers128.zip --steps 4000 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--out runs/flowers-dr-8 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-8 \
		--photos $(DATA)/flowers128.zip --steps 1800 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--consistency-share 0.5 --seed 1 --out runs/flowers-dr-9 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-9 \
		--photos $(DATA)/flowers128.zip --steps 2400 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--consistency-share 0.5 --seed 2 --out runs/flowers-dr-10 --resume
	$(BIN)/python -m argan_train pack runs/flowers-dr-9 runs/flowers-dr-10 runs/flowers-dr-mean-1
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher runs/flowers64 --student runs/flowers-dr-mean-1 \
		--photos $(DATA)/flowers128.zip --steps 1800 --decoder light --size 128 --learning-rate 2e-3 --stems 0.6 \
		--consistency-share 0.5 --seed 3 --out runs/flowers-dr-11 --resume
	$(BIN)/python -m argan_train pack runs/flowers-dr-mean-1 runs/flowers-dr-11 runs/flowers-dr-mean
	$(BIN)/argan train ar-gan-dr --teacher runs/flowers64 --qat runs/flowers-dr-mean \
		--photos $(DATA)/flowers128.zip --steps 120 --out runs/flowers-dr --resume

# A model of people: research-only photographs, so it stays out of the wheel. The flowers' student sees their faces, which
# is start enough; an hour and a half of one core. Stopped, the same command goes on.
people-model: .venv/done
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher weights/flowers64 --student weights/flowers-dr \
		--photos $(DATA)/faces128.zip --steps 1000 --out runs/people-dr-1 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher weights/flowers64 --student runs/people-dr-1 \
		--photos $(DATA)/faces128.zip --standing true --ground 0.2 --steps 2000 --out runs/people-dr-2 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher weights/flowers64 --student runs/people-dr-2 \
		--photos $(DATA)/faces128.zip --standing true --ground 0.2 --steps 3500 --out runs/people-dr --resume
	$(BIN)/argan evaluate runs/people-dr --data $(DATA) -o out/people-evaluation
	$(BIN)/argan export runs/people-dr -o out/people.argan \
		--evaluation out/people-evaluation/evaluation.json --licence weights/people-dr/LICENSE-WEIGHTS

# Another one, which says so: the encoder of EfficientNet-Lite0, pretrained on ImageNet, with that model's cuts, and then its own.
people-lite0-model: people-model
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher weights/flowers64 --student runs/people-dr \
		--photos $(DATA)/faces128.zip --network lite0 --decoder light --size 128 --learning-rate 2e-3 \
		--standing true --ground 0.2 --steps 1500 --out runs/people-lite0-1 --resume
	$(BIN)/argan train ar-gan-dr --preset dr96 --teacher weights/flowers64 --student runs/people-lite0-1 \
		--photos $(DATA)/faces128.zip --network lite0 --decoder light --size 128 --learning-rate 2e-3 \
		--standing true --ground 0.2 --cutout-share 0.9 --composed 0.5 --steps 3000 --seed 1 \
		--out runs/people-lite0 --resume
	$(BIN)/argan evaluate runs/people-lite0 --data $(DATA) -o out/people-lite0-evaluation
	$(BIN)/argan export runs/people-lite0 -o out/people-lite0.argan \
		--evaluation out/people-lite0-evaluation/evaluation.json --licence weights/people-lite0/LICENSE-WEIGHTS

default-model: .venv/done
	$(BIN)/argan evaluate weights/flowers-dr --data $(DATA) -o out/default-evaluation
	$(BIN)/argan export weights/flowers-dr -o runtime/argan/models/default.argan --to onnx,tflite,coreml \
		--precision onnx-fp32,onnx-int8,tflite-fp16,tflite-int8,coreml-fp16 \
		--calibration $(DATA)/flowers128.zip \
		--evaluation out/default-evaluation/evaluation.json --licence weights/flowers-dr/LICENSE-WEIGHTS

clean:
	rm -rf .venv .venv-demo .venv-lean .venv-web examples/web/node_modules dist out
