"""Deployment files of the pipeline that this one replaces, as they were when two of them had to be reconciled."""

from __future__ import annotations

COMPOSE = """
x-mlflow: &mlflow
  MLFLOW_TRACKING_URI: http://mlflow:5000
  MLFLOW_S3_ENDPOINT_URL: http://minio:9000
  AWS_ACCESS_KEY_ID: minioadmin
  AWS_SECRET_ACCESS_KEY: planted-secret
services:
  preprocess:
    image: preprocess:latest
    environment:
      TRAIN_FILE: PobleSec.csv
      SAMPLE_TRAIN_ROWS: ""
      SAMPLE_TEST_ROWS: ${SAMPLE_TEST_ROWS:-}
      SAMPLE_STRATEGY: ""
      SAMPLE_SEED:
      SCALER: MinMaxScaler
  train_gru:
    image: train:latest
    environment: {<<: *mlflow, MODEL_TYPE: GRU, EPOCHS: 10, BATCH_SIZE: 64, HIDDEN_SIZE: 128}
  train_lstm:
    image: train:latest
    environment:
      - MODEL_TYPE=LSTM
      - EPOCHS=10
      - BATCH_SIZE=64
      - HIDDEN_SIZE=128
  nonml_prophet:
    image: nonml:latest
    environment: {MODEL_TYPE: PROPHET, GROWTH: linear}
  inference:
    environment: {BATCH_SIZE: 32, KAFKA_BOOTSTRAP_SERVERS: "kafka:9092"}
  minio:
    image: minio/minio:latest
"""

SAMPLES = 'sampleTrainRows: "50", sampleTestRows: "30", sampleStrategy: "head", sampleSeed: "45"'

HELM_FIXED = f"""
preprocess:
  image: {{repository: preprocess, tag: latest}}
  env: {{trainFile: PobleSec.csv, scaler: MinMaxScaler, {SAMPLES}}}
train:
  gru:
    image: {{repository: train, tag: latest}}
    env: {{modelType: GRU, epochs: 5, batchSize: 64, hiddenSize: 128}}
  lstm:
    image: {{repository: train, tag: latest}}
    env: {{modelType: LSTM, epochs: 5, batchSize: 64, hiddenSize: 128}}
nonml:
  prophet:
    image: {{repository: nonml, tag: latest}}
    env: {{modelType: PROPHET, growth: linear}}
inference:
  env: {{batchSize: 32, kafkaBootstrapServers: "kafka.svc:9092"}}
"""

HELM = HELM_FIXED.replace("hiddenSize: 128}", f"hiddenSize: 128, {SAMPLES}}}").replace(
    "growth: linear}", f"growth: linear, {SAMPLES}}}"
)

MANIFESTS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: shared}
data: {EPOCHS: "5", BATCH_SIZE: "64"}
---
apiVersion: batch/v1
kind: Job
metadata: {name: preprocess}
spec:
  template:
    spec:
      containers:
        - name: preprocess
          image: registry.local/preprocess:latest
          env:
            - {name: TRAIN_FILE, value: PobleSec.csv}
            - {name: SCALER, value: MinMaxScaler}
            - {name: SAMPLE_TRAIN_ROWS, value: "50"}
            - {name: SAMPLE_TEST_ROWS, value: "30"}
            - {name: SAMPLE_STRATEGY, value: head}
            - {name: SAMPLE_SEED, value: "45"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: train-gru}
spec:
  template:
    spec:
      containers:
        - name: train
          image: train:latest
          envFrom: [{configMapRef: {name: shared}}]
          env:
            - {name: MODEL_TYPE, value: GRU}
            - {name: HIDDEN_SIZE, value: "128"}
            - name: AWS_SECRET_ACCESS_KEY
              valueFrom: {secretKeyRef: {name: s3, key: secret}}
"""

RAY_JOB = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {name: flts}
spec:
  entrypoint: flts run
  runtimeEnvYAML: |
    env_vars:
      FLTS_SAMPLING__TRAIN_ROWS: "50"
      FLTS_TRAINING__EPOCHS: "10"
"""

DOTENV = """
# one process does everything
export SAMPLE_TRAIN_ROWS=50
SAMPLE_TEST_ROWS='30'
EPOCHS=10   # as in Compose
MLFLOW_TRACKING_URI=postgresql://flts:planted-secret@db/mlflow
"""
