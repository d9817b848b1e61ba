# docker build -t clipdre .
# docker build -t clipdre:cuda --build-arg BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime .
# docker run --rm -v "$PWD":/work clipdre score pool/ -o scores --model ViT-B-32 --pretrained checkpoint.pt
#
# BASE is any image with Python 3.11 or newer; where it has torch already, that one is used.
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY . /tmp/clipdre
RUN python3 -m pip install --no-cache-dir '/tmp/clipdre[remote,transformers]' && rm -rf /tmp/clipdre
WORKDIR /work
ENTRYPOINT ["clipdre"]
CMD ["--help"]
