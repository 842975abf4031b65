# AWS Lambda: docs/deploy.md says what the folder that this is built from holds.
FROM public.ecr.aws/lambda/python:3.12
COPY *.whl /tmp/
RUN pip install --no-cache-dir "$(ls /tmp/*.whl)[serve,functions]" && rm /tmp/*.whl
COPY detector.onnx ${LAMBDA_TASK_ROOT}/
ENV AASIST_DETECTOR=detector.onnx AASIST_MAX_BODY_MB=6 AASIST_MAX_REQUESTS=1
CMD ["aasist_lib.serving.functions.aws_lambda"]
