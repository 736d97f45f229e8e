"""The robust student objective in a plain PyTorch loop, on the embedded digits: small enough for a CPU."""

import torch

from robust_student import METHODS, Batch, RobustStudentObjective, load_data, train
from robust_student.models.registry import build
from robust_student.training.train import TEACHER_SETTINGS

data = load_data("digits")
teacher = train("cnn:24", data, TEACHER_SETTINGS.model_copy(update={"epochs": 5})).model
student = build("cnn:4", data.shape, len(data.classes))
optimizer = torch.optim.AdamW(student.parameters(), lr=4e-3)
inputs, labels = data.training_examples.floats(), data.training_examples.labels
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=64, shuffle=True)

objective = RobustStudentObjective(student, METHODS["secant"])
for _ in range(20):
    for x, y in loader:
        loss = objective(Batch(x, y, teacher=teacher)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

student.eval()
accuracy = (student(data.test.floats()).argmax(dim=1) == data.test.labels).double().mean().item()
print(f"test accuracy {100 * accuracy:.1f} %")
